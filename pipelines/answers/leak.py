"""Find the leak: LEAK01 at every intensity and not at all, and how often the same audit fires on sets that are clean."""

from collections.abc import Iterator
from typing import Any

from infra.clock import DAY_US
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from monitoring.gate import accept, accepted
from pipelines.answers.worlds import temporary_world
from pipelines.console import say
from pipelines.drill import run as drill
from pipelines.markdown import table
from pipelines.sources.contract import SourceSpec
from pipelines.training import assemble, audit
from pipelines.training_set import Window, split_windows

QUESTION = "Find the leak: which check fired, on what, and how often does it fire for nothing?"
NUMBER = 7
BUG = "LEAK01"
INTENSITIES = ("strong", "mild", "trace")
CLEAN_WORLDS = {"tiny": range(101, 109), "small": range(101, 102)}  # size -> seeds that nothing was tuned on
SHIFTS = {"tiny": (-1, -2), "small": (-1, -2, -3, -4)}  # days by which the windows of later audits are moved


def run(chosen: Settings) -> dict[str, Any]:
    """Drills on this home, then audits of clean sets of other seeds."""
    drills = {}
    for intensity in (*INTENSITIES, "clean"):
        say(f"drill {BUG}, {intensity}")
        clean = intensity == "clean"
        found = drill(chosen.base(), BUG, chosen, INTENSITIES[0] if clean else intensity, clean)
        pages = [finding for finding in found.findings if finding["severity"] == "page"]
        drills[intensity] = {
            "caught": found.found,
            "as_expected": found.as_expected,
            "caught_by": found.caught_by,
            "class": found.bug_class,
            "subject": found.subject,
            "evidence": [{k: page[k] for k in ("check", "subject", "evidence")} for page in pages[:3]],
            "checks_run": found.checks_run,
            "seconds": found.seconds,
        }
    audits = [found for size, seeds in _clean_sizes(chosen).items() for seed in seeds for found in _clean(chosen, size, seed)]
    return {
        "bug": BUG,
        "drills": drills,
        "clean_audits": len(audits),
        "clean_worlds": len({(found["size"], found["seed"]) for found in audits}),
        "by_size": {size: sum(found["size"] == size for found in audits) for size in dict.fromkeys(f["size"] for f in audits)},
        "false_alarms": [found for found in audits if found["pages"]],
    }


def _clean_sizes(chosen: Settings) -> dict[str, range]:
    """Other seeds' worlds of the size asked about and smaller: a run on tiny must stay short."""
    return {"tiny": CLEAN_WORLDS["tiny"][:1]} if chosen.size == "tiny" else CLEAN_WORLDS


def _clean(chosen: Settings, size: str, seed: int) -> Iterator[dict[str, Any]]:
    """Audits of one world's training set without and with a reference: the first, then sets that end on other days."""
    say(f"auditing clean sets of a world of size {size}, seed {seed}")
    with temporary_world(chosen, size, seed) as (home, spec):
        for days in (0, *SHIFTS[size]):
            pages = _audit(home, spec, chosen, days)
            yield {"size": size, "seed": seed, "shift_days": days, "reference": days != 0, "pages": pages}


def _audit(home: Home, spec: SourceSpec, chosen: Settings, days: int) -> list[str]:
    """Pages of the audit of the split's windows moved by some days; the first set audited is accepted as the reference."""
    windows = {n: Window(w.first_us + days * DAY_US, w.last_us + days * DAY_US) for n, w in split_windows(spec).items()}
    checks, aucs = audit(home, spec, assemble(home, spec, chosen, windows), watermark_us(home), chosen.attribution_hours)
    if accepted(home) is None:
        accept(home, aucs)
    return [str(finding) for finding in checks.pages]


def markdown(result: dict[str, Any]) -> str:
    """Each drill's outcome, and the false alarms."""
    rows = []
    for intensity, found in result["drills"].items():
        outcome = "silent" if not found["class"] else "caught" if found["caught"] else "other alarm"
        if intensity != "clean" and not found["caught"]:
            outcome = f"**missed** ({outcome})"
        rows.append([intensity, outcome, ", ".join(found["caught_by"]), found["subject"] or "", _evidence(found)])
    sizes = ", ".join(f"{count} of size {size}" for size, count in result["by_size"].items())
    alarms = result["false_alarms"]
    named = "".join(f"\n- size {a['size']}, seed {a['seed']}, moved {a['shift_days']} days: {a['pages'][0]}" for a in alarms)
    return (
        f"{table(['intensity', 'outcome', 'checks that named it', 'subject', 'evidence of the first'], rows)}\n\n"
        f"False alarms: {len(alarms)} in {result['clean_audits']} audits of clean sets ({sizes}) from "
        f"{result['clean_worlds']} worlds of other seeds.{_bound(len(alarms), result['clean_audits'])}{named}"
    )


def _bound(alarms: int, audits: int) -> str:
    """The exact one-sided 95% limit of the rate (Clopper and Pearson 1934), as a sentence."""
    from scipy.stats import beta

    high = 1.0 if alarms == audits else float(beta.ppf(0.95, alarms + 1, audits - alarms))
    return f" With 95% confidence the rate is below {high:.0%} an audit, as far as audits of one world are separate luck."


def _evidence(found: dict[str, Any]) -> str:
    named = [page for page in found["evidence"] if page["check"] in found["caught_by"]]
    if not named:
        return ""
    shown = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(named[0]["evidence"].items())[:3]]
    return f"{named[0]['check']}: " + ", ".join(shown)

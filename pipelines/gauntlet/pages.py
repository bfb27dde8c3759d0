"""The scoreboard as Markdown: goals beside what was reached, the matrix, and every miss.  Rendered into docs/gauntlet.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.figures import load


def gauntlet_scores() -> str:
    """The figures of the last recorded run."""
    return gauntlet_page(load("gauntlet").result)


def gauntlet_peers() -> str:
    """General drift tools on the same days, in the last recorded run."""
    return _peers(load("gauntlet").result)


def gauntlet_clean() -> str:
    """The clean days of the last recorded run."""
    return quiet_page(load("gauntlet-clean").result)


def quiet_page(result: Mapping[str, Any]) -> str:
    """Pages and notices on clean days in a row."""
    loud = [day for day, found in result["by_day"].items() if found["notices"] or found["pages"]]
    text = (
        f"{result['clean_days']:.0f} clean days in a row, {result['first_day']} to {result['last_day']} (market "
        f"{result['seed']}): {_many(result['alarms'], 'page')}, {_many(result['notices'], 'notice')} on "
        f"{_many(len(loud), 'day')}. Upper 95% bound: "
        f"{result['upper95']:.2f} pages in 30 days."
    )
    if not result["pages"]:
        return text
    return text + "\n\n" + _counted(["page", "subject"], [[page["class"], page["subject"]] for page in result["pages"]])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _counted(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of rows, equal ones once with their number, in order of their first columns."""
    counts = Counter(tuple(map(str, row)) for row in rows)
    return _table([*head, "times"], [[*row, count] for row, count in sorted(counts.items())])


def _rate(found: Mapping[str, Any]) -> str:
    if found["rate"] is None:
        return "nothing to count"
    return f"{found['rate']:.1%} ({found['hits']} of {found['of']}; {found['low']:.0%} to {found['high']:.0%})"


def _number(value: float | None, form: str = ".2f") -> str:
    return "never for most" if value is None else f"{value:{form}}"


def gauntlet_page(result: Mapping[str, Any]) -> str:
    """All of it."""
    worlds = ", ".join(f"{world['tuning']} {world['seed']}" for world in result["worlds"])
    head = (
        f"{result['runs']} runs, seed {result['seed']}, worlds {worlds}; {result['seconds'] / 60:.0f} minutes on two cores. "
        "Rates with counts and Wilson's 95% interval."
    )
    parts = [head, _goals(result), "### Bug by intensity (detected of runs)", _matrix(result), _misses(result)]
    parts += [_floor(result), _alarms(result), _gate(result)]
    parts += (
        ["### The same days under general drift tools\n\nOne bug a class, one day each.", _peers(result)]
        if result["peers"]
        else []
    )
    return "\n\n".join(part for part in parts if part)


def _goals(result: Mapping[str, Any]) -> str:
    alarms, cost, gate, oracle = (result[name] for name in ("false_alarms", "overhead", "gate", "delay_over_oracle"))
    detection, named = result["detection"], result["diagnosis"]
    events = result["events_to_detect"]
    rows = [
        ["detection, strong (2 hours)", ">= 99%", _rate(detection["strong"])],
        ["detection, mild (1 day)", ">= 92%", _rate(detection["mild"])],
        ["detection, trace (14 days)", ">= 60%", _rate(detection["trace"])],
        *(
            [f"the same without shifts that the oracle missed too, {name}", "", _rate(result["detection_oracle_sees"][name])]
            for name in ("strong", "mild", "trace")
        ),
        ["without replay, strong", ">= 95%", _rate(result["without_replay"]["strong"])],
        ["without replay, mild", ">= 75%", _rate(result["without_replay"]["mild"])],
        ["label-free, strong, of classes visible without labels", ">= 95%", _rate(result["label_free"]["strong"])],
        [
            f"pages on {alarms['clean_days']:.0f} clean days: upper 95% bound in 30 days",
            "<= 1",
            f"{alarms['upper95']:.2f} ({_many(alarms['alarms'], 'page')}; {result['notices_a_day']:.2f} notices a day)",
        ],
        ["root cause, first hypothesis", ">= 85%", _rate(named["top1"])],
        ["root cause, first three", ">= 97%", _rate(named["top3"])],
        ["subject of the first hypothesis", ">= 95%", _rate(named["column"])],
        [
            "delay on calibration shifts over the oracle's, median",
            "<= 1.5",
            f"{_number(oracle['median'])} ({oracle['runs']} runs, {oracle['missed']} missed; the oracle itself missed "
            f"{oracle['oracle_missed']} more)",
        ],
        [
            f"CPU of a distribution pass, {cost['distribution_rows']:,} rows x {cost['columns']} features",
            "<= 2 s",
            f"{cost['distribution_cpu_s']:.2f} s (and {cost['learning_cpu_s']:.1f} s once a week to learn the prediction anew)",
        ],
        ["CPU of a window's replay sample, largest", "<= 1.5 s", f"{cost['replay_cpu_s_max']:.2f} s"],
        ["gate: bad exports blocked", ">= 98%", _rate(gate["bad_blocked"])],
        ["gate: good exports blocked", "<= 0.5%", _rate(gate["good_blocked"])],
        [
            "impressions to detection, median: strong / mild / trace",
            "",
            " / ".join(_number(events[name], ",.0f") for name in ("strong", "mild", "trace")),
        ],
    ]
    return _table(["figure", "goal", "reached"], rows)


def _matrix(result: Mapping[str, Any]) -> str:
    rows = [[code, *(row.get(name, "") for name in ("strong", "mild", "trace"))] for code, row in result["matrix"].items()]
    return _table(["bug", "strong", "mild", "trace"], rows)


def _misses(result: Mapping[str, Any]) -> str:
    if not result["misses"]:
        return "No cell was missed."
    rows = [[o["code"], o["intensity"], o["bug_class"], o["subject"], _said(o["named"]), _oracle(o)] for o in result["misses"]]
    text = (
        "### Missed\n\nThe oracle knows hour, size and direction of a calibration shift and the world's real variance; where "
        "it sees nothing within the horizon, nobody could.\n\n"
    )
    return text + _counted(["bug", "intensity", "class", "subject", "what was said instead", "the oracle"], rows)


def _oracle(outcome: Mapping[str, Any]) -> str:
    if outcome["shift"] is None:
        return ""
    return "never" if outcome["oracle_hours"] is None else f"after {outcome['oracle_hours']:.0f} h"


def _said(named: Sequence[Sequence[str]]) -> str:
    return ", ".join(": ".join(pair) for pair in named[:2]) or "silence"


def _floor(result: Mapping[str, Any]) -> str:
    if not result["below_floor"]:
        return ""
    rows = [
        [c["code"], c["intensity"], f"{c['shift']:.1%}", f"{c['needed']:,}", f"{c['clicks']:,}"] for c in result["below_floor"]
    ]
    text = "### Below the statistical floor, not scored\n\nA relative calibration shift d needs about (4/d)² clicks.\n\n"
    return text + _table(["bug", "intensity", "shift d", "clicks needed", "clicks in the horizon"], rows)


def _alarms(result: Mapping[str, Any]) -> str:
    if not result["clean_pages"]:
        return ""
    rows = [[page["class"], page["subject"]] for page in result["clean_pages"]]
    return "### Pages on clean days\n\n" + _counted(["class", "subject"], rows)


def _gate(result: Mapping[str, Any]) -> str:
    by_class = result["gate"]["by_class"]
    if not by_class:
        return ""
    rows = [[name, *(str(value) for value in _counts(found))] for name, found in sorted(by_class.items())]
    return "### The gate before training\n\n" + _table(["class", "blocked", "of"], rows)


def _counts(found: Mapping[str, Any]) -> tuple[int, int]:
    return found["hits"], found["of"]


def _peers(result: Mapping[str, Any]) -> str:
    if not result["peers"]:
        return ""
    rows = [
        [tool, *(_day(found[name]) for name in ("clean", "mild", "strong"))] for tool, found in result["peers"]["tools"].items()
    ]
    skipped = [f"{tool} was skipped: {why}." for tool, why in result["peers"]["skipped"].items()]
    head = ["tool, defaults", "clean days with an alarm", "mild: alarm (named)", "strong: alarm (named)"]
    return _table(head, rows) + ("\n\n" + " ".join(skipped) if skipped else "")


def _day(found: Mapping[str, Any]) -> str:
    named = f" ({found['named']})" if "named" in found else ""
    return f"{found['alarms']}/{found['days']}{named}"

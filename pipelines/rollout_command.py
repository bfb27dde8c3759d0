"""`clickproof rollout`: who answers requests in this home, changed by people.  Imported when one of its commands runs.

A model that is to get traffic, be it as a shadow, is tried first (`pipelines.rollout_trial`, imported only then: a rollback
must not wait for it); the change is refused where the document was changed meanwhile.
"""

import json
import os
import pwd
from collections.abc import Sequence

import msgspec

from infra.clock import SystemClock, to_datetime
from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models.artefact import MANIFEST
from pipelines.console import finish
from serving import rollout as transitions
from serving import rollout_store
from serving.rollout import Arm, Experiment, Rollout, Transition, arms_text, changes, plan
from serving.rollout_audit import Entry


def show(chosen: Settings, as_json: bool) -> int:
    """The document, the share of every arm, and the models of the home."""
    home = chosen.base()
    now, told = rollout_store.read(home), rollout_store.disagreement(home)
    result = {
        "rollout": msgspec.to_builtins(now),
        "plan": dict(plan(now)),
        "artefacts": {name: _about(home, name) for name in _artefacts(home)},
        "disagreement": told,
    }
    finish(result, as_json, "\n".join([*_lines(home, now), *([f"\nWRONG: {told}"] if told else [])]))
    return 1 if told else 0


def show_history(chosen: Settings, as_json: bool) -> None:
    """Every change that took effect, oldest first."""
    found = rollout_store.history(chosen.base())
    text = "\n".join(_told(entry) for entry in found) or f"no change yet in {chosen.base().rollout}"
    finish({"changes": msgspec.to_builtins(found)}, as_json, text)


def shadow(chosen: Settings, artefact: str, who: str | None, why: str, as_json: bool) -> None:
    """Add one."""
    name = _named(chosen.base(), artefact)
    _change(chosen, who, why, as_json, lambda now: transitions.add_shadow(now, name), [name])


def unshadow(chosen: Settings, artefact: str, who: str | None, why: str, as_json: bool) -> None:
    """Drop one, also one whose files are gone."""
    home = chosen.base()
    name = next((each for each in rollout_store.read(home).shadows if each.startswith(artefact)), artefact)
    _change(chosen, who, why, as_json, lambda now: transitions.drop_shadow(now, name))


def canary(chosen: Settings, artefact: str | None, share: float, end: bool, who: str | None, why: str, as_json: bool) -> None:
    """Start it, change its share, or end it."""
    if end == (artefact is not None):
        raise ExplainedError("clickproof rollout canary needs either a HASH (with --share) or --end")
    if artefact is None:
        _change(chosen, who, why, as_json, transitions.end_canary)
        return
    name, since_us = _named(chosen.base(), artefact), SystemClock().now_us()
    _change(chosen, who, why, as_json, lambda now: transitions.start_canary(now, name, share, since_us), [name])


def experiment(
    chosen: Settings, name: str | None, arms: Sequence[str], end: bool, who: str | None, why: str, as_json: bool
) -> None:
    """Start it, or end it."""
    if end == (name is not None):
        raise ExplainedError("clickproof rollout experiment needs either a NAME (with --arm, twice or more) or --end")
    if name is None:
        _change(chosen, who, why, as_json, transitions.end_experiment)
        return
    planned = Experiment(name, tuple(_arm(chosen.base(), text) for text in arms))
    _change(chosen, who, why, as_json, lambda now: transitions.start_experiment(now, planned), planned.artefacts)


def compare(chosen: Settings, artefact: str, as_json: bool) -> None:
    """A shadow beside whoever answered."""
    from pipelines import shadow_report

    found = shadow_report.compare(chosen.base(), chosen, _named(chosen.base(), artefact))
    finish(found, as_json, shadow_report.as_text(found))


def promote(chosen: Settings, artefact: str | None, who: str | None, why: str, as_json: bool) -> None:
    """The canary, or any model of the home."""
    home = chosen.base()
    running = rollout_store.read(home).canary
    name = _named(home, artefact) if artefact else running.artefact if running else None
    _change(chosen, who, why, as_json, lambda now: transitions.promote(now, name), [name] if name else [])


def rollback(chosen: Settings, who: str | None, why: str, as_json: bool) -> None:
    """The champion before answers again; nothing is tried first but its bytes, because this is for emergencies."""
    _finish(rollout_store.rollback(chosen.base(), who or _user(), why), as_json)


def realign(chosen: Settings, as_json: bool) -> None:
    """The alias follows the document."""
    home = chosen.base()
    named, champion = rollout_store.realign(home), rollout_store.read(home).champion
    text = f"the alias named {named}; it names {champion} now" if named else f"the alias names {champion} already"
    finish({"before": named, "champion": champion}, as_json, text)


def _change(
    chosen: Settings, who: str | None, why: str, as_json: bool, transition: Transition, newcomers: Sequence[str] = ()
) -> None:
    """Change the document that stands now, after trying what would get traffic."""
    home, who = chosen.base(), who or _user()
    now = rollout_store.read(home)
    transition(now)  # refused before anything is loaded
    if newcomers:
        from pipelines.rollout_trial import admit

        for name in newcomers:
            admit(home, chosen, now, name)
    _finish(rollout_store.change(home, who, why, transition, expected=now.number), as_json)


def _arm(home: Home, text: str) -> Arm:
    """NAME=WEIGHT or NAME=WEIGHT:HASH."""
    name, _, rest = text.partition("=")
    weight, _, artefact = rest.partition(":")
    try:
        share = float(weight)
    except ValueError:
        raise ExplainedError(
            f"--arm {text}: write NAME=WEIGHT or NAME=WEIGHT:HASH, for example treatment=0.5:3f2a..."
        ) from None
    return Arm(name, _named(home, artefact) if artefact else None, share)


def _artefacts(home: Home) -> list[str]:
    return sorted(path.parent.name for path in home.artefacts.glob(f"[!.]*/{MANIFEST}"))


def _named(home: Home, given: str) -> str:
    """The artefact whose hash begins so."""
    there = _artefacts(home)
    found = [name for name in there if name.startswith(given)]
    if len(found) != 1:
        which = "several artefacts begin with" if found else "no artefact begins with"
        listed = "\n".join(f"  {name}  {_about(home, name)}" for name in found or there) or "  none: make train makes some"
        raise ExplainedError(f"{which} {given!r} in {home.artefacts}; there are\n{listed}")
    return found[0]


def _about(home: Home, name: str) -> str:
    """Family and training days of an artefact, for people."""
    try:
        fields = json.loads((home.artefacts / name / "artefact.json").read_text())
        return f"{fields['family']}, trained on {' to '.join(fields['trained_days']) or 'unknown days'}"
    except (OSError, ValueError, KeyError):
        return "its files are gone or damaged"


def _lines(home: Home, now: Rollout) -> list[str]:
    """The document for people."""
    done = rollout_store.history(home)[-1:]
    since = [f"{_time(entry.at_us)} by {entry.who}: {entry.why}" for entry in done] or ["from the registry's alias"]
    lines = [f"document {now.number}, {since[0]}", f"champion  {now.champion}  {_about(home, now.champion)}"]
    if now.canary:
        about = _about(home, now.canary.artefact)
        lines.append(f"canary    {now.canary.artefact}  {about}; {now.canary.share:.1%} since {_time(now.canary.since_us)}")
    lines += [f"shadow    {name}  {_about(home, name)}" for name in now.shadows]
    lines.append(f"arms      {', '.join(f'{arm} {share:.1%}' for arm, share in plan(now).items())}")
    lines.append(f"          experiment {now.experiment.salt}: {arms_text(now.experiment)}")
    others = [name for name in _artefacts(home) if name not in now.artefacts]
    return lines + [f"other     {name}  {_about(home, name)}" for name in others]


def _finish(entry: Entry, as_json: bool) -> None:
    finish(msgspec.to_builtins(entry), as_json, _told(entry))


def _told(entry: Entry) -> str:
    back = f" (takes back {entry.undoes})" if entry.undoes else ""
    said = "\n".join(f"      {line}" for line in changes(entry.before, entry.after))
    return f"{entry.number:>4}  {_time(entry.at_us)}  {entry.who}: {entry.why}{back}\n{said}"


def _time(at_us: int) -> str:
    return f"{to_datetime(at_us):%Y-%m-%d %H:%M:%S}"


def _user() -> str:
    """The system's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise ExplainedError("this system has no name for its user: say who decides with --who NAME") from None

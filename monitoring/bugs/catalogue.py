"""Every bug that can be injected, and the one way to look it up.  Called by drills, the gauntlet, commands and the docs."""

from infra.errors import ExplainedError
from monitoring.bugs.data import FAULTS
from monitoring.bugs.drift import DRIFTS
from monitoring.bugs.entry import Bug
from monitoring.bugs.exp import EXPERIMENTS
from monitoring.bugs.leak import LEAKS
from monitoring.bugs.outside import load
from monitoring.bugs.serve import SERVINGS
from monitoring.bugs.skew import SKEWS
from monitoring.bugs.train import TRAININGS

__all__ = ["BUGS", "bug", "load"]

BUGS: tuple[Bug, ...] = (*LEAKS, *SKEWS, *DRIFTS, *FAULTS, *TRAININGS, *SERVINGS, *EXPERIMENTS)


def bug(name: str, bugs: tuple[Bug, ...] = BUGS) -> Bug:
    """The bug of that code or name, in any case, among `bugs`; ExplainedError lists what there is."""
    wanted = name.strip().lower()
    for entry in bugs:
        if wanted in (entry.code.lower(), entry.name):
            return entry
    raise ExplainedError(f"no bug {name!r}; there are {', '.join(f'{b.code} ({b.name})' for b in bugs)}")

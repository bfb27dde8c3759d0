"""Every bug that can be injected, and the one way to look it up.  Called by the drill runner, the command line and the docs."""

from infra.errors import ExplainedError
from monitoring.bugs.drift import DRIFTS
from monitoring.bugs.entry import Bug
from monitoring.bugs.leak import LEAKS

BUGS: tuple[Bug, ...] = (*LEAKS, *DRIFTS)


def bug(name: str) -> Bug:
    """The bug of that code or name, in any case; ExplainedError lists what there is."""
    wanted = name.strip().lower()
    for entry in BUGS:
        if wanted in (entry.code.lower(), entry.name):
            return entry
    raise ExplainedError(f"no bug {name!r}; there are {', '.join(f'{b.code} ({b.name})' for b in BUGS)}")

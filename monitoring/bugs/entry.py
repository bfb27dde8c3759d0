"""What a bug is to the drill runner: where it enters, what it does to a table there, and which answer is the right one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Stage = Literal["feature", "request"]
Inject = Callable[[pa.Table, float], pa.Table]


@dataclass(frozen=True, slots=True)
class Bug:
    """One production bug.  `inject(rows, intensity)` is pure and keeps the schema; the runner applies it to `table` at `stage`.

    Stages: `feature` rewrites the rows of a feature view on their way to disk, day by day; `request` rewrites one row a request
    (request_id and the request's context columns) before the policy sees it, for the day that follows the log.
    """

    code: str  # stable: LEAK01
    name: str  # slug: label-leakage
    bug_class: str  # what a finding must say
    stage: Stage
    table: str  # the view or stream whose rows are rewritten
    truth_subject: str  # what a finding must name
    story: str
    looks_like: str
    runbook: tuple[str, ...]  # what to check first, then how to heal
    intensities: Mapping[str, float]  # strong, mild, trace
    inject: Inject

    def intensity(self, name: str) -> float:
        """The number behind an intensity's name; KeyError names those there are."""
        if name not in self.intensities:
            raise KeyError(f"{self.code} has no intensity {name!r}; there are {', '.join(self.intensities)}")
        return self.intensities[name]

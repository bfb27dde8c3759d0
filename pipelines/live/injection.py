"""What is broken right now: one bug from the catalogue, and the rows it gets at its stage.

The endpoint's process and the one that runs the market each hold a `Fault`; whoever moves rows through a stage asks it.  With
nothing injected it hands rows back as they are.  Production code knows nothing of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from monitoring.bugs.entry import Bug, Scene, Stage


@dataclass(frozen=True, slots=True)
class Injection:
    """A bug in force: which, how much of it, with which luck, since when."""

    bug: Bug
    intensity: str
    seed: int
    onset_us: int

    @property
    def dose(self) -> float:
        """The number that the bug's function gets."""
        return self.bug.dose(self.intensity)

    def scene(self, table: str, tables: Mapping[str, pa.Table], artefacts: Mapping[str, Any]) -> Scene:
        """What surrounds the rows of one table."""
        return Scene(table, self.seed, self.onset_us, tables, artefacts)


@dataclass(slots=True)
class Fault:
    """A place for at most one injection; shared by all stages of a process."""

    now: Injection | None = None
    artefacts: Mapping[str, Any] = field(default_factory=dict)  # models by name, for bugs of the stage `model`

    def at(self, stage: Stage, table: str) -> Injection | None:
        """The injection, where it enters at that stage and rewrites that table; None otherwise."""
        injection = self.now
        hit = injection is not None and injection.bug.stage == stage and table in injection.bug.tables
        return injection if hit else None

    def rows(self, stage: Stage, table: str, rows: pa.Table, tables: Mapping[str, pa.Table] | None = None) -> pa.Table:
        """`rows` as they leave the stage."""
        injection = self.at(stage, table)
        if injection is None or not rows.num_rows:
            return rows
        return injection.bug.inject(rows, injection.dose, injection.scene(table, tables or {}, self.artefacts))

"""Where everything lives: one folder, the home, laid out the same for the base and for every branch of it."""

from dataclasses import dataclass
from pathlib import Path


class ReadOnlyHome(PermissionError):
    """A write was tried on a home that a drill must not touch."""


@dataclass(frozen=True, slots=True)
class Home:
    """A folder with all state of one system: events, features, models, logs.  Branches are homes too."""

    root: Path
    writable: bool = True

    def writing(self, path: Path) -> Path:
        """`path`, with its parent folder made; raises `ReadOnlyHome` where this home must not be written."""
        if not self.writable:
            raise ReadOnlyHome(f"{self.root} is read-only here: a drill may write only to its own branch")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def landing(self) -> Path:
        """Raw files as they arrived: landing/STREAM/day=YYYY-MM-DD/*.parquet, by day of arrival."""
        return self.root / "landing"

    @property
    def truth(self) -> Path:
        """What only the simulated world knows (true click probabilities).  Opened by evaluation and nobody else."""
        return self.root / "truth"

    @property
    def lake(self) -> Path:
        """Delta tables: events, labels, predictions."""
        return self.root / "lake"

    @property
    def features(self) -> Path:
        """Feature snapshots: features/VIEW/day=YYYY-MM-DD.parquet."""
        return self.root / "features"

    @property
    def feast(self) -> Path:
        """Feast's registry and the embedded online store."""
        return self.root / "feast"

    @property
    def online(self) -> Path:
        """The embedded online store, one SQLite file."""
        return self.feast / "online.db"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and run artefacts."""
        return self.root / "mlflow"

    @property
    def artefacts(self) -> Path:
        """Models by content hash: artefacts/HASH/."""
        return self.root / "artefacts"

    @property
    def rollout(self) -> Path:
        """Who answers requests now, and the audit log of every change to that."""
        return self.root / "rollout"

    @property
    def log(self) -> Path:
        """The prediction log: append-only segments written by serving, later ingested into the lake."""
        return self.root / "log"

    @property
    def shadows(self) -> Path:
        """What shadows scored: append-only segments, later ingested into the lake."""
        return self.root / "shadows"

    @property
    def run(self) -> Path:
        """What a running server keeps for its workers: nothing that anybody needs after it."""
        return self.root / "run"

    @property
    def events(self) -> Path:
        """Clicks as the endpoint took them: append-only segments written by serving, later landed."""
        return self.root / "events"

    @property
    def reports(self) -> Path:
        """Plots and HTML reports."""
        return self.root / "reports"

    @property
    def branches(self) -> Path:
        """Branches of this home, one folder each."""
        return self.root / "branches"

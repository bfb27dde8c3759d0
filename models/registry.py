"""Which artefact is champion, and why: runs, versions, aliases and decisions, kept in MLflow.

A version is an artefact's hash; MLflow's number is only an alias of it.  Training writes here, the endpoint and the gauntlet
ask `alias_hash`.  MLflow runs on a SQLite file in the home, or on the server that the settings name; a branch always has its
own file.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.clock import to_datetime
from infra.home import Home
from infra.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "clickproof"
CHAMPION = "champion"
ARTEFACT, DECISION = "artefact", "decision."  # tags of a version: its hash, and one for each decision about it


@dataclass(frozen=True, slots=True)
class Version:
    """One registered artefact."""

    number: int
    hash: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision: what was asked about which artefact, the answer and the reasons."""

    at_us: int
    subject: str  # for example "promote to champion"
    hash: str
    passed: bool
    reasons: tuple[str, ...]
    before: str | None  # hash the alias named before, where an alias moved


class Registry:
    """The registry of one home."""

    def __init__(self, home: Home, url: str) -> None:
        self.home = home
        self.url = url
        self._client: MlflowClient | None = None

    @classmethod
    def of(cls, home: Home) -> "Registry":
        """The registry that the settings name for this home: their MLflow server for the base, a SQLite file for any other
        home."""
        chosen = settings()
        if chosen.mlflow_url and home.root.resolve() == chosen.base().root:
            return cls(home, chosen.mlflow_url.get_secret_value())
        return cls(home, f"sqlite:///{home.mlflow / 'mlflow.db'}")

    @property
    def exists(self) -> bool:
        """Whether anything was ever recorded; True for a server, which has to be asked."""
        return not self.url.startswith("sqlite:") or (self.home.mlflow / "mlflow.db").exists()

    def record(
        self,
        artefact: str,
        *,
        name: str,
        at_us: int,
        params: Mapping[str, Any],
        metrics: Mapping[str, Any],
        tags: Mapping[str, Any],
        files: Sequence[Path] = (),
    ) -> Version:
        """Log a run named `name` and register the artefact of that hash, saved in the home, as a new version.

        `metrics` may be a report of `models.evaluate`: nested names are joined with dots, None is left out.  `tags` say
        where the model comes from: table versions, feature service, lineage.  `files` (reports, plots) and the artefact
        itself are stored with the run. Raises FileNotFoundError when the artefact isn't saved."""
        folder = self.home.artefacts / artefact
        if not folder.is_dir():
            raise FileNotFoundError(
                f"artefact {artefact} is not in {self.home.artefacts}; call Artefact.save before recording it"
            )
        from mlflow.entities import Metric, Param, RunTag

        client, at_ms = self._writing(), at_us // 1000
        run = client.create_run(self._experiment(client), start_time=at_ms, run_name=name)
        run_id = run.info.run_id
        everything = {**tags, ARTEFACT: artefact}
        client.log_batch(
            run_id,
            [Metric(key, value, at_ms, 0) for key, value in flat(metrics).items()],
            [Param(key, _text(value)) for key, value in params.items()],
            [RunTag(key, _text(value)) for key, value in everything.items()],
        )
        client.log_artifacts(run_id, str(folder), "artefact")
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, end_time=at_ms)
        if not client.search_registered_models(f"name = '{MODEL}'"):
            client.create_registered_model(
                MODEL, description="Click-through rate; a version's tag `artefact` is its content hash."
            )
        version = client.create_model_version(
            MODEL,
            source=f"{run.info.artifact_uri}/artefact",
            run_id=run_id,
            tags={key: _text(value) for key, value in everything.items()},
        )
        return _version(version)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        if not self.exists:
            return []
        found = self._connected().search_model_versions(f"name = '{MODEL}'")
        aliases = self.aliases()
        return sorted((_version(v, aliases) for v in found), key=lambda version: version.number)

    def aliases(self) -> dict[str, int]:
        """Version number by alias."""
        if not self.exists:
            return {}
        models = self._connected().search_registered_models(f"name = '{MODEL}'")
        return {alias: int(number) for model in models for alias, number in model.aliases.items()}

    def alias_hash(self, alias: str) -> str | None:
        """The artefact hash that an alias names now, None where it names nothing."""
        if alias not in self.aliases():
            return None
        return str(self._connected().get_model_version_by_alias(MODEL, alias).tags[ARTEFACT])

    def metric(self, artefact: str, name: str) -> float | None:
        """A figure of the artefact's latest run, for example test.ne; None where it wasn't recorded."""
        found = self._connected().get_run(self._latest(artefact).run_id).data.metrics.get(name)
        return None if found is None else float(found)

    def decide(
        self, artefact: str, subject: str, passed: bool, reasons: Sequence[str], *, at_us: int, alias: str | None = None
    ) -> AuditEntry:
        """Write a decision about an artefact into the audit and, where it passed, let `alias` name that artefact.

        Moving an alias without a decision isn't possible: a rollback is a decision too.  Raises KeyError for an artefact
        never recorded."""
        version = self._latest(artefact)
        before = self.alias_hash(alias) if alias else None
        entry = AuditEntry(at_us, subject, artefact, passed, tuple(reasons), before)
        text = json.dumps({"at_us": at_us, "subject": subject, "passed": passed, "reasons": list(reasons), "before": before})
        client = self._writing()
        client.set_model_version_tag(MODEL, str(version.number), f"{DECISION}{len(self.audit()):06d}", text)
        if alias and passed:
            client.set_registered_model_alias(MODEL, alias, str(version.number))
        return entry

    def remove_alias(self, alias: str, artefact: str, reasons: Sequence[str], *, at_us: int) -> AuditEntry:
        """Let an alias (a shadow's, a canary's) name nothing, with the reason in the audit."""
        entry = self.decide(artefact, f"remove alias {alias}", True, reasons, at_us=at_us)
        self._writing().delete_registered_model_alias(MODEL, alias)
        return entry

    def audit(self) -> list[AuditEntry]:
        """Every decision ever made, oldest first."""
        found = []
        for version in self.versions():
            for key, text in version.tags.items():
                if key.startswith(DECISION):
                    said = json.loads(text)
                    entry = AuditEntry(
                        said["at_us"], said["subject"], version.hash, said["passed"], tuple(said["reasons"]), said["before"]
                    )
                    found.append((key, entry))
        return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]

    def _latest(self, artefact: str) -> Version:
        matching = [version for version in self.versions() if version.hash == artefact]
        if not matching:
            raise KeyError(
                f"artefact {artefact} was never recorded in the registry of {self.home.root}; call Registry.record first"
            )
        return matching[-1]

    def _writing(self) -> "MlflowClient":
        self.home.writing(self.home.mlflow / "mlflow.db")
        return self._connected()

    def _connected(self) -> "MlflowClient":
        if self._client is None:
            from mlflow import MlflowClient
            from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
            from mlflow.telemetry import set_telemetry_client

            MLFLOW_DISABLE_TELEMETRY.set(True)
            set_telemetry_client()  # reads the setting again and drops the client that the import made
            with warnings.catch_warnings():
                # Its SQLAlchemy mappings are made at the first query, and complain about each other and about Prefect's.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._client = MlflowClient(self.url, self.url)
                self._client.search_experiments(max_results=1)
        return self._client

    def _experiment(self, client: "MlflowClient") -> str:
        """The experiment of this home; a copied database names the folder it was copied from, so a branch gets one of its
        own."""
        if not self.url.startswith("sqlite:"):
            found = client.get_experiment_by_name(MODEL)
            return str(found.experiment_id if found else client.create_experiment(MODEL))
        location = str(self.home.mlflow / "artefacts")
        for experiment in client.search_experiments():
            if experiment.artifact_location == location:
                return str(experiment.experiment_id)
        name = MODEL if client.get_experiment_by_name(MODEL) is None else f"{MODEL} at {self.home.root}"
        return str(client.create_experiment(name, artifact_location=location))


def alias_hash(home: Home, alias: str = CHAMPION) -> str | None:
    """The artefact hash that `alias` names in this home, None where it names nothing."""
    return Registry.of(home).alias_hash(alias)


def flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers under names joined with dots; what isn't a number is left out.  `{"ne": {"value": 1}}` gives {"ne": 1}."""
    out: dict[str, float] = {}
    for key, value in numbers.items():
        name = prefix if key == "value" and prefix else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            out |= flat(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out[name] = float(value)
    return out


def describe(entry: AuditEntry) -> str:
    """One decision as text, for the command line."""
    verdict = "passed" if entry.passed else "failed"
    return f"{to_datetime(entry.at_us):%Y-%m-%d %H:%M} {entry.subject}: {entry.hash} {verdict}\n  " + "\n  ".join(entry.reasons)


def _version(found: "ModelVersion", aliases: Mapping[str, int] | None = None) -> Version:
    number = int(found.version)
    names = tuple(sorted(alias for alias, at in (aliases or {}).items() if at == number))
    return Version(number, found.tags[ARTEFACT], str(found.run_id), names, dict(found.tags))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)

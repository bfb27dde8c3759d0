"""What a trained model is outside training: encoder, model, calibration and b(slot) in one folder named by its content.

`models.train` makes artefacts; the scorer, replay, evaluation and the gauntlet load them by hash.  A version is its hash:
the folder cannot change without changing its name, and `load` refuses one that did.
"""

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.calibrate import Calibrator
from models.contract import F32, Array, Dataset, FeatureSpec
from models.encode import Encoder
from models.family import TrainedModel, family
from models.position import PositionBias

FORMAT = 1
MANIFEST = "manifest.json"


class ArtefactError(ValueError):
    """An artefact that isn't there, or whose files are not what its hash says."""


@dataclass(frozen=True)
class Artefact:
    """logit p = s + b(slot), with s = a model(x) + c."""

    model: TrainedModel
    position: PositionBias
    calibrator: Calibrator
    service: str = ""  # feature service that its inputs come from
    entities: tuple[str, ...] = ()  # entities of the data it was trained on
    trained_days: tuple[str, ...] = ()  # first and last day of the training rows
    seed: int = 0
    configuration: Mapping[str, Any] = field(default_factory=dict)  # all that was chosen by hand
    _saved: list[str] = field(default_factory=list, repr=False, compare=False)  # the hash, once known

    @property
    def encoder(self) -> Encoder:
        """What turns columns into the model's numbers."""
        return self.model.encoder

    @property
    def spec(self) -> FeatureSpec:
        """The columns that `score` needs."""
        return self.model.encoder.spec

    @property
    def family(self) -> str:
        """logistic, xgboost, dcnv2 or base_rate."""
        return self.model.family

    @property
    def encoder_hash(self) -> str:
        """Sixteen hex digits that name the encoder's content."""
        return self.encoder.encoder_hash

    @property
    def configuration_hash(self) -> str:
        """Sixteen hex digits of family, service, features and configuration: a candidate equal to the champion in them is a
        refresh, otherwise it is a change."""
        spec = self.spec
        chosen = [self.family, self.service, spec.categorical, spec.numeric, spec.sequence, dict(self.configuration)]
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, Any]:
        """What artefact.json holds."""
        return {
            "format": FORMAT,
            "family": self.family,
            "service": self.service,
            "entities": list(self.entities),
            "trained_days": list(self.trained_days),
            "seed": self.seed,
            "encoder_hash": self.encoder_hash,
            "configuration": dict(self.configuration),
            "defaults": self.encoder.defaults(),
            "position": self.position.to_json(),
            "calibrator": self.calibrator.to_json(),
        }

    @property
    def hash(self) -> str:
        """Sixteen hex digits of the content of all files that `save` writes."""
        if not self._saved:
            with tempfile.TemporaryDirectory() as folder:
                self._saved.append(self._write(Path(folder)))
        return self._saved[0]

    def score(self, columns: Mapping[str, Array]) -> F32:
        """s of n rows: the calibrated logit without position, float32 [n].  Extra columns are ignored."""
        return self.calibrator.apply(self.margin(self.inputs(columns)))

    def inputs(self, columns: Mapping[str, Array]) -> Any:
        """The first step of `score`: what the model computes with."""
        return self.model.inputs(columns)

    def margin(self, inputs: Any) -> F32:
        """The second: the model's own logit, float32 [n].  The third is `calibrator.apply`."""
        return self.model.margin(inputs)

    def probability(self, s: npt.NDArray[np.floating], slot: Array) -> npt.NDArray[np.float64]:
        """Click probability of scores `s` at the slots given, float64 [n]."""
        from models.logit_rows import at_slots

        return at_slots(np.array(s, np.float64), np.array(slot, np.int64), self.position.values)

    def updated(self, batch: Dataset) -> "Artefact":
        """A new artefact that has also learned from `batch`; this one stays as it is, position and calibration are kept."""
        model = copy.deepcopy(self.model)
        model.update(batch, self.position.offset(batch.slot))
        return replace(self, model=model, _saved=[])

    def save(self, root: Path) -> str:
        """Write the folder root/HASH and return the hash; writing the same artefact again changes nothing."""
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=".saving-"))
        try:
            name = self._write(folder)
            if not (root / name).exists():
                folder.chmod(0o755)
                os.replace(folder, root / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        verify(root, name)
        self._saved[:] = [name]
        return name

    def _write(self, folder: Path) -> str:
        self.model.save(folder)
        (folder / "artefact.json").write_text(json.dumps(self.metadata, indent=1, sort_keys=True))
        contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
        files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
        manifest = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
        (folder / MANIFEST).write_bytes(manifest)
        return _name(manifest)


def verify(root: Path, name: str) -> Path:
    """The folder of artefact `name`, after checking every byte of it; ArtefactError says which file is wrong and what to do."""
    folder = root / name
    remedy = f"delete {folder} and train again, or copy the folder from where it is whole"
    if not (folder / MANIFEST).is_file():
        there = sorted(path.name for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
        raise ArtefactError(f"no artefact {name!r} in {root}; there are {there or 'none: run training first'}")
    manifest = (folder / MANIFEST).read_bytes()
    if _name(manifest) != name:
        raise ArtefactError(f"{folder / MANIFEST} does not hash to {name} but to {_name(manifest)}: it was changed; {remedy}")
    for file, expected in json.loads(manifest)["files"].items():
        path = folder / file
        if not path.is_file():
            raise ArtefactError(f"{path} is missing; {remedy}")
        data = path.read_bytes()
        if len(data) != expected["bytes"]:
            raise ArtefactError(f"{path} has {len(data)} bytes instead of {expected['bytes']}: truncated or changed; {remedy}")
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise ArtefactError(f"{path} has the right length and other content than its hash says; {remedy}")
    return folder


def load(root: Path, name: str, *, threads: int = 1) -> Artefact:
    """The artefact saved as `name` below `root`, scoring with `threads` threads.  Raises ArtefactError for any damage."""
    folder = verify(root, name)
    fields = json.loads((folder / "artefact.json").read_text())
    if fields["format"] != FORMAT:
        raise ArtefactError(f"{folder} has format {fields['format']}, this version reads {FORMAT}; train again")
    model = family(fields["family"]).load(folder)
    model.use_threads(threads)
    return Artefact(
        model,
        PositionBias.from_json(fields["position"]),
        Calibrator.from_json(fields["calibrator"]),
        fields["service"],
        tuple(fields["entities"]),
        tuple(fields["trained_days"]),
        fields["seed"],
        fields["configuration"],
        [name],
    )


def _name(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:16]

"""From named columns to numbers a model can use: vocabularies, standardised numbers, padded sequences.

An `Encoder` is learned from training rows only and travels inside the artefact, so that training, serving and replay encode
alike; its hash is written to the prediction log.  Every family uses it.  Vocabularies can grow (codes once given stay), which
is what online updates need.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.blocks import Blocks
from models.contract import Array, FeatureSpec

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
UNKNOWN = 0  # the code of every value that training did not see often enough
PADDING = -1  # in sequences, before and after encoding
LIMIT = 8.0  # standardised numbers are clipped to this many standard deviations
FEW_ROWS, FEW_VALUES = 128, 4096  # a look-up in a dict is faster than numpy's calls for so few, and small enough to keep
SKEWED = 2.0  # non-negative numbers with a larger skewness are taken as logarithms


@dataclass(frozen=True)
class Vocabulary:
    """Known values of one categorical column: `values` sorted, `codes` the code (1 ..) of each."""

    values: Array  # int64 or numpy unicode [v]
    codes: I64  # [v]

    @cached_property
    def _known(self) -> dict[Any, int]:
        return dict(zip(self.values.tolist(), self.codes.tolist(), strict=True))

    @property
    def size(self) -> int:
        """Number of codes, the unknown one included."""
        return len(self.values) + 1

    def encode(self, column: Array) -> I64:
        """Codes of `column` (any shape), 0 where a value is not known."""
        if not len(self.values):
            return np.zeros(column.shape, np.int64)
        if column.ndim == 1 and len(column) <= FEW_ROWS and len(self.values) <= FEW_VALUES:  # an online request
            known = self._known
            return np.array([known.get(value, UNKNOWN) for value in column.tolist()], np.int64)
        at = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        return np.where(self.values[at] == column, self.codes[at], UNKNOWN)

    def code(self, value: str | int) -> int:
        """The code of one value, 0 where it isn't known."""
        if len(self.values) <= FEW_VALUES:
            return self._known.get(value, UNKNOWN)
        return int(self.encode(np.array([value]))[0])

    def grown(self, column: Array, min_count: int) -> "Vocabulary":
        """This vocabulary plus the values seen at least `min_count` times in `column`, with codes that follow the old ones."""
        values, counts = np.unique(column, return_counts=True)
        values = values[(counts >= min_count) & (values != _missing(values))]
        new = values[self.encode(values) == UNKNOWN]
        merged = np.concatenate([self.values, new])
        codes = np.concatenate([self.codes, np.arange(self.size, self.size + len(new), dtype=np.int64)])
        order = np.argsort(merged, kind="stable")
        return Vocabulary(merged[order], codes[order])


@dataclass(frozen=True, slots=True)
class Encoded:
    """n rows as numbers."""

    codes: I64  # [n, categorical columns]
    numeric: F32  # [n, numeric columns], standardised, missing filled with the mean (0)
    missing: F32  # [n, columns with gaps in training], 1 where the value was not there
    sequences: tuple[I64, ...]  # each [n, length], PADDING where there is nothing


@dataclass(frozen=True, slots=True)
class Encoder:
    """What training taught about the columns of `spec`."""

    spec: FeatureSpec
    vocabularies: Mapping[str, Vocabulary]  # of categorical and sequence columns
    mean: F32  # [numeric columns], of the values after the logarithm where `logged`
    scale: F32  # [numeric columns], standard deviation; 1 where the column was constant
    logged: npt.NDArray[np.bool_]  # [numeric columns]: log1p first
    gaps: npt.NDArray[np.bool_]  # [numeric columns]: missing often enough in training to learn from that it is

    @classmethod
    def learn(cls, columns: Mapping[str, Array], spec: FeatureSpec, *, min_count: int = 5) -> Self:
        """The encoder of training columns [n]; values seen fewer than `min_count` times stay unknown, so code 0 is trained too.

        Raises KeyError for a column of `spec` that isn't there, TypeError for one of the wrong type."""
        vocabularies = {}
        for name in spec.categorical + spec.sequence:
            values = _categories(name, columns)
            vocabularies[name] = Vocabulary(values[:0].reshape(-1), np.zeros(0, np.int64)).grown(values.reshape(-1), min_count)
        width = len(spec.numeric)
        mean, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
        logged, gaps = np.zeros(width, np.bool_), np.zeros(width, np.bool_)
        for i, name in enumerate(spec.numeric):
            values = _numbers(name, columns).astype(np.float64)
            gaps[i] = np.sum(~np.isfinite(values)) >= min_count
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            spread = values.std()
            if spread > 0 and values.min() >= 0 and np.mean(((values - values.mean()) / spread) ** 3) > SKEWED:
                logged[i] = True
                values = np.log1p(values)
            mean[i] = values.mean()
            scale[i] = values.std() if values.std() > 1e-6 * max(1.0, abs(values.mean())) else 1.0
        return cls(spec, vocabularies, mean, scale, logged, gaps)

    def grown(self, columns: Mapping[str, Array], *, min_count: int = 5) -> "Encoder":
        """This encoder with the new categories of `columns` added; old codes and all numbers stay as they are."""
        vocabularies = {
            name: vocabulary.grown(_categories(name, columns).reshape(-1), min_count)
            for name, vocabulary in self.vocabularies.items()
        }
        return Encoder(self.spec, vocabularies, self.mean, self.scale, self.logged, self.gaps)

    @property
    def dense(self) -> int:
        """Number of numeric inputs: the columns, and one more for each column with gaps."""
        return len(self.spec.numeric) + int(self.gaps.sum())

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each categorical column."""
        return tuple(self.vocabularies[name].size for name in self.spec.categorical)

    def encode(self, columns: Mapping[str, Array]) -> Encoded:
        """Everything a model that wants standardised input needs, of n rows."""
        numeric = self.numbers(columns)
        missing = ~np.isfinite(numeric)
        numeric[missing] = 0.0
        if self.logged.any():
            numeric[:, self.logged] = np.log1p(np.maximum(numeric[:, self.logged], 0.0))
        numeric -= self.mean
        numeric /= self.scale
        numeric[missing] = 0.0
        np.clip(numeric, -LIMIT, LIMIT, out=numeric)
        return Encoded(self.codes(columns), numeric, missing[:, self.gaps].astype(np.float32), self.sequences(columns))

    def codes(self, columns: Mapping[str, Array], names: Sequence[str] | None = None) -> I64:
        """Codes of the categorical columns, or of those named, int64 [n, columns]."""
        names = self.spec.categorical if names is None else names
        out = np.empty((_rows(columns, self.spec), len(names)), np.int64)
        same: Mapping[str, Any] = {}
        if isinstance(columns, Blocks):  # one request: most of its categories are the same in all rows
            same = {**columns.same, **{name: values[0] for name, values in columns.others.items() if len(values) == 1}}
        for i, name in enumerate(names):
            vocabulary, value = self.vocabularies[name], same.get(name)
            if value is None:
                out[:, i] = vocabulary.encode(_categories(name, columns))
            else:
                out[:, i] = vocabulary.code(value if isinstance(value, int) else value.item())
        return out

    def numbers(self, columns: Mapping[str, Array]) -> F32:
        """The numeric columns as they are, float32 [n, columns], NaN where missing: what trees want."""
        spec = self.spec
        if isinstance(columns, Blocks) and (order := columns.names.order(spec.numeric)) is not None:
            return columns.numbers.take(order, axis=1)
        out = np.empty((len(spec.numeric), _rows(columns, spec)), np.float32)
        for row, name in zip(out, spec.numeric, strict=True):
            row[:] = _numbers(name, columns)
        return np.ascontiguousarray(out.T)

    def sequences(self, columns: Mapping[str, Array]) -> tuple[I64, ...]:
        """Codes of the sequence columns, each int64 [n, length]; PADDING stays, unknown values are 0."""
        out = []
        for name in self.spec.sequence:
            values = _categories(name, columns)
            out.append(np.where(values == PADDING, PADDING, self.vocabularies[name].encode(values)))
        return tuple(out)

    def defaults(self) -> dict[str, str | int | None]:
        """The value by which each column says "unknown": "" for texts, -1 for ids, None (NaN) for numbers."""
        known: dict[str, str | int | None] = {
            name: "" if vocabulary.values.dtype.kind == "U" else -1 for name, vocabulary in self.vocabularies.items()
        }
        return {**known, **dict.fromkeys(self.spec.numeric)}

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"mean": self.mean, "scale": self.scale, "logged": self.logged, "gaps": self.gaps}
        for i, name in enumerate(self.spec.categorical + self.spec.sequence):
            arrays[f"values_{i}"] = self.vocabularies[name].values
            arrays[f"codes_{i}"] = self.vocabularies[name].codes
        return arrays

    def _fields(self) -> dict[str, list[str]]:
        spec = self.spec
        return {"categorical": list(spec.categorical), "numeric": list(spec.numeric), "sequence": list(spec.sequence)}

    @property
    def encoder_hash(self) -> str:
        """Sixteen hex digits that name this encoder's content."""
        digest = hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write encoder.json and encoder.npz into an existing folder."""
        (folder / "encoder.json").write_text(json.dumps(self._fields(), indent=1, sort_keys=True))
        arrays: dict[str, Any] = self._arrays()
        np.savez(folder / "encoder.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        fields = {name: tuple(values) for name, values in json.loads((folder / "encoder.json").read_text()).items()}
        spec = FeatureSpec(fields["categorical"], fields["numeric"], fields["sequence"])
        with np.load(folder / "encoder.npz", allow_pickle=False) as arrays:
            vocabularies = {
                name: Vocabulary(arrays[f"values_{i}"], arrays[f"codes_{i}"])
                for i, name in enumerate(spec.categorical + spec.sequence)
            }
            return cls(spec, vocabularies, arrays["mean"], arrays["scale"], arrays["logged"], arrays["gaps"])


def _missing(values: Array) -> str | int:
    return "" if values.dtype.kind == "U" else -1


def _column(name: str, columns: Mapping[str, Array]) -> Array:
    try:
        return columns[name]
    except KeyError:
        raise KeyError(f"feature column {name!r} is missing; there are {sorted(columns)}") from None


def _categories(name: str, columns: Mapping[str, Array]) -> Array:
    """A categorical or sequence column as int64 or unicode; float ids (NaN: unknown) become int64."""
    values = _column(name, columns)
    kind = values.dtype.kind
    if kind == "U" or values.dtype == np.int64:
        return values
    if kind in "iub":
        return values.astype(np.int64)
    if kind == "f":
        return np.where(np.isfinite(values), values, -1).astype(np.int64)
    raise TypeError(f"feature column {name!r} has dtype {values.dtype}; a categorical column is int64 or numpy unicode")


def _numbers(name: str, columns: Mapping[str, Array]) -> Array:
    values = _column(name, columns)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"feature column {name!r} has dtype {values.dtype}; a numeric column is float32 or an integer")
    return values


def _rows(columns: Mapping[str, Array], spec: FeatureSpec) -> int:
    return len(_column(spec.names[0], columns))

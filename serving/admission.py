"""Whether an artefact may get traffic, be it as a shadow: what nobody finds out on live requests.

Its bytes are those its hash names, its columns are among those that this home serves, and on rows like the home's own it
gives finite scores, probabilities between 0 and 1, and not one score for all.  Called by `clickproof rollout` before a change,
and by the endpoint before it lets a loaded model answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from features.batch import Array, FeatureSource, RequestBatch
from features.catalogue import Entity
from features.ids import text_id, uniform
from features.spec import feature_spec
from models.artefact import Artefact, ArtefactError, load
from serving.messages import context_kinds, context_names
from serving.scorer import fetch

ROWS = 256
SLOTS = 8
UNKNOWN_EVERY = 16  # one row in so many is of a user, an ad and a context that nobody knows
_UNKNOWN_AD = 2**62
_SALT = text_id("admission probe")
_USES = ("categorical", "numeric", "sequence")


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows on which artefacts are tried."""

    columns: Mapping[str, Array]  # [ROWS], as the home's feature source gives them
    uses: Mapping[str, str]  # column -> categorical, numeric or sequence
    varies: bool  # whether the champion's scores differ from row to row

    @property
    def slot(self) -> npt.NDArray[np.int64]:
        """Slots of the rows."""
        return np.arange(ROWS) % SLOTS


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer: an artefact that is loaded, or why it may not answer."""

    artefact: Artefact | None
    reasons: tuple[str, ...] = ()


def probe(champion: Artefact, source: FeatureSource, at_us: int) -> Probe:
    """The home's probe: users, ads and contexts that the champion knows, drawn by hash, and some that nobody knows.

    The same rows for the same champion; their features are those of the moment `at_us`.
    """
    context = context_names(champion.spec.names)
    kinds = context_kinds(context)
    rows = RequestBatch(
        np.arange(ROWS),
        np.full(ROWS, at_us),
        _drawn(champion, "user_id", -1),
        _drawn(champion, "ad_id", _UNKNOWN_AD),
        {name: _drawn(champion, name, "" if kinds[name] == "string" else -1) for name in context},
    )
    columns = fetch(source, rows).columns
    spec = feature_spec(cast(tuple[Entity, ...], champion.entities), context, champion.service)
    uses = {name: use for use in _USES for name in getattr(spec, use)}
    return Probe(columns, uses, _varies(champion.score(columns)))


def examine(root: Path, name: str, asked: Probe, threads: int = 1) -> Admission:
    """Load the artefact `name` below `root` and try it; scoring with `threads` threads."""
    try:
        artefact = load(root, name, threads=threads)
    except ArtefactError as error:
        return Admission(None, (str(error),))
    except Exception as error:  # noqa: BLE001 - whatever a file holds, it must not reach an answer
        return Admission(None, (f"artefact {name} can't be loaded: {type(error).__name__}: {error}; train again",))
    reasons = tuple(_schema(artefact, asked)) or tuple(_outputs(artefact, asked))
    return Admission(None if reasons else artefact, reasons)


def _schema(artefact: Artefact, asked: Probe) -> Iterator[str]:
    """What it asks for and this home does not serve."""
    missing = [name for name in artefact.spec.names if name not in asked.columns]
    if missing:
        yield f"it needs the columns {', '.join(missing)}, which this home does not serve; train it on this home's features"
    vocabularies = artefact.encoder.vocabularies
    for use in _USES:
        for name in getattr(artefact.spec, use):
            here = asked.uses.get(name, use)
            if here != use:
                yield f"it takes {name} for {use}, which is {here} here; train it on this home's features"
            elif name in asked.columns:
                served = "text" if asked.columns[name].dtype.kind == "U" else "numbers"
                known = "text" if name in vocabularies and vocabularies[name].values.dtype.kind == "U" else "numbers"
                if served != known:
                    yield f"it takes {name} for {known}, which is {served} here; train it on this home's features"


def _outputs(artefact: Artefact, asked: Probe) -> Iterator[str]:
    """What is wrong with its answers."""
    remedy = "this model is broken, train another"
    try:
        with np.errstate(all="ignore"):
            s = np.asarray(artefact.score(asked.columns))
            p = np.asarray(artefact.probability(s, asked.slot)).astype(np.float32)  # as it is logged
    except Exception as error:  # noqa: BLE001 - any failure here would be one of an answer
        yield f"it fails on the probe: {type(error).__name__}: {error}; {remedy}"
        return
    if s.shape != (ROWS,) or p.shape != (ROWS,):
        yield f"it answers {ROWS} rows with scores {list(s.shape)} and probabilities {list(p.shape)}; {remedy}"
        return
    wrong = int(np.sum(~np.isfinite(s)))
    outside = int(np.sum(~((p > 0) & (p < 1))))
    if wrong:
        yield f"{wrong} of {ROWS} scores on the probe are not finite; {remedy}"
    elif outside:
        yield f"{outside} of {ROWS} probabilities on the probe are not between 0 and 1; {remedy}"
    elif asked.varies and not _varies(s):
        yield f"it gives all {ROWS} rows of the probe one score ({s[0]:.4g}), which the champion does not; {remedy}"


def _drawn(champion: Artefact, name: str, unknown: str | int) -> Array:
    """Values [ROWS] of a column that the champion knows, and `unknown` in between."""
    vocabulary = champion.encoder.vocabularies.get(name)
    if vocabulary is None or not len(vocabulary.values):
        return np.full(ROWS, unknown)
    place = (uniform(_SALT, text_id(name), np.arange(ROWS)) * len(vocabulary.values)).astype(np.int64)
    return np.where(np.arange(ROWS) % UNKNOWN_EVERY == 0, np.asarray(unknown), vocabulary.values[place])


def _varies(s: npt.NDArray[np.floating]) -> bool:
    return bool(np.ptp(s) > 1e-6)

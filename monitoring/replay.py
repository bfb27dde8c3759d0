"""Replay of the prediction log: were the logged features what could be known, and is the logged p the declared model's?

Two questions that split every training-serving skew in half.  Features: each logged value against the one recomputed from
history as it could be seen at the request's time.  Model: each logged score and probability against those that the artefact,
loaded by the hash in the log, gives on the *logged* features.  Feature replay fails and model replay passes: the feature path;
the reverse: the artefact.
Pure but for the two functions it is handed.  Called by `clickproof monitor`.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Array, FeatureSource, RequestBatch
from features.ids import uniform
from features.sources import logged_column
from infra.clock import day_name
from monitoring.comparison import differs
from monitoring.findings import Checks, Finding
from serving.scorer import ScoringArtefact

BENIGN = 0.0005  # share of values that may differ: a request on the very edge of a tick sees one store before and one after it
SCORE_TOLERANCE = 1e-4  # of s and p: batch and single-row arithmetic differ in float32's last digits
SALT = 0x5245504D

Result = tuple[str, npt.NDArray[np.bool_], dict[str, int]]  # subject, which of all rows are wrong, details


class Load(Protocol):
    """Loads the artefact with a hash; raises where it isn't there or is damaged."""

    def __call__(self, name: str) -> ScoringArtefact: ...


def sample(predictions: pa.Table, most: int = 20_000) -> pa.Table:
    """Rows whose features were logged, of at most about `most` rows in whole requests, by hash of the request."""
    logged = [name for name in predictions.column_names if name.startswith("f_")]
    if not logged:
        return predictions.slice(0, 0)
    whole = predictions.filter(pc.is_valid(predictions["f_ad_id"] if "f_ad_id" in logged else predictions[logged[0]]))
    chosen = uniform(whole["request_id"].to_numpy(), SALT) < most / max(whole.num_rows, 1)
    return whole.filter(pa.array(chosen))


def replay(predictions: pa.Table, source: FeatureSource, context: Sequence[str], load: Load) -> Checks:
    """Both replays on rows of the lake's `predictions` whose features were logged (see `sample`)."""
    checks = Checks()
    if predictions.num_rows == 0:
        for check in ("feature-replay", "model-replay"):
            checks.skip(check, "no prediction with logged features in the lake")
        return checks
    columns = {name[2:]: logged_column(predictions[name]) for name in predictions.column_names if name.startswith("f_")}
    checks.record("feature-replay", replay_features(predictions, columns, source, context))
    checks.record("model-replay", replay_models(predictions, columns, load))
    return checks


def replay_features(
    predictions: pa.Table, columns: dict[str, Array], source: FeatureSource, context: Sequence[str]
) -> list[Finding]:
    """Features whose logged values differ from what `source` says could be seen at the time, beyond the benign share."""
    time_us = pc.cast(predictions["event_timestamp"], pa.int64()).to_numpy()
    asked = RequestBatch(
        np.arange(predictions.num_rows), time_us, pc.fill_null(predictions["user_id"], -1).to_numpy(),
        predictions["ad_id"].to_numpy(), {name: columns[name] for name in context},
    )  # fmt: skip
    again = source.fetch(asked).columns
    return _findings(
        "feature-replay", "feature-skew",
        ((name, differs(columns[name], again[name]), {}) for name in columns if name in again and name not in context),
        time_us,
    )  # fmt: skip


def replay_models(predictions: pa.Table, columns: dict[str, Array], load: Load) -> list[Finding]:
    """Artefacts (subject: their hash) whose logged s, p or encoder is not what they give on the logged features."""
    time_us = pc.cast(predictions["event_timestamp"], pa.int64()).to_numpy()
    declared = np.asarray(predictions["artefact"].to_pylist(), dtype=np.str_)
    encoder = np.asarray(predictions["encoder"].to_pylist(), dtype=np.str_)
    s = predictions["s"].to_numpy()
    p = pc.fill_null(predictions["p"], np.nan).to_numpy()
    slot = predictions["slot"].to_numpy()
    results: list[Result] = []
    for name in np.unique(declared):
        rows = np.flatnonzero(declared == name)
        artefact = load(str(name))
        again = artefact.score({key: values[rows] for key, values in columns.items()})
        shown = slot[rows] >= 0
        off_s = ~np.isclose(s[rows], again, rtol=0, atol=SCORE_TOLERANCE)
        off_p = np.zeros(len(rows), bool)
        if shown.any():
            expected = artefact.probability(again[shown], slot[rows][shown])
            off_p[shown] = ~np.isclose(p[rows][shown], expected, rtol=0, atol=SCORE_TOLERANCE)
        off_encoder = encoder[rows] != artefact.encoder_hash
        wrong = np.zeros(len(declared), bool)
        wrong[rows] = off_s | off_p | off_encoder
        detail = {"off_s": int(off_s.sum()), "off_p": int(off_p.sum()), "off_encoder": int(off_encoder.sum())}
        results.append((str(name), wrong, {**detail, "rows": len(rows)}))
    return _findings("model-replay", "model-skew", results, time_us)


def _findings(check: str, bug_class: str, results: Iterable[Result], time_us: npt.NDArray[np.int64]) -> list[Finding]:
    """A page for each subject with more mismatches than the benign share (and at least three), worst first."""
    found = []
    for subject, wrong, detail in results:
        rows, count = detail.get("rows", len(wrong)), int(wrong.sum())
        limit = max(BENIGN * rows, 2)
        if count > limit:
            first = day_name(int(time_us[wrong].min()))
            evidence = {"rows": rows, "mismatches": count, "rate": count / rows, **detail}
            found.append(Finding(check, bug_class, subject, "page", evidence, first, count / limit))
    return sorted(found, key=lambda finding: -finding.excess)

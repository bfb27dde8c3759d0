"""Bugs of serving: the features are right, and what scores them, or what becomes of the score, is not."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.ids import uniform
from infra.errors import ExplainedError
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import Array, for_share, hit, numbers, put
from monitoring.bugs.wrapped import F32, Wrapped
from serving.scorer import ScoringArtefact

_SALT = 0x5345  # plus the entry's number

FALLBACK_P = 0.04  # about the base rate: the answer that was meant to do no harm
FALLBACK_S = float(np.log(FALLBACK_P / (1 - FALLBACK_P)))


def rates_exchanged(rows: pa.Table) -> Mapping[str, Array]:
    """The click rates of user and ad in each other's place."""
    return {"user_ctr": numbers(rows, "ad_ctr"), "ad_ctr": numbers(rows, "user_ctr")}


def logarithm_left_out(rows: pa.Table) -> Mapping[str, Array]:
    """The price itself where the model expects its logarithm."""
    return {"ad_log_price": np.expm1(numbers(rows, "ad_log_price"))}


def previous_version(artefact: ScoringArtefact, share: float, scene: Scene) -> ScoringArtefact:
    """The artefact, with the rows of a hashed `share` of users scored by the version before, scene.artefacts["previous"]."""
    if "previous" not in scene.artefacts:
        raise ExplainedError(f"this bug needs an artefact 'previous' to score with; the scene has {sorted(scene.artefacts)}")
    previous = scene.artefacts["previous"]

    def change(columns: Mapping[str, Array], s: F32) -> Array:
        old = hit(columns["user_id"], _SALT + 3, share, scene)
        if old.any():
            s = s.copy()
            s[old] = previous.score({name: values[old] for name, values in columns.items()})
        return s

    return Wrapped(artefact, change) if share else artefact


def fallback(artefact: ScoringArtefact, share: float, scene: Scene) -> ScoringArtefact:
    """The artefact, with one constant probability at every slot for a hashed `share` of (user, hour)."""

    def change(columns: Mapping[str, Array], s: F32) -> Array:
        timed_out = uniform(columns["user_id"], columns["hour"], _SALT + 4, scene.seed) < share
        return np.where(timed_out, np.float32(FALLBACK_S), s)

    return Wrapped(artefact, change, (FALLBACK_S, FALLBACK_P)) if share else artefact


def nan_to_zero(artefact: ScoringArtefact, share: float, scene: Scene) -> ScoringArtefact:
    """The artefact, with a logit of 0 for a hashed `share` of users: their embedding is NaN, and somebody caught it."""

    def change(columns: Mapping[str, Array], s: F32) -> Array:
        return np.where(hit(columns["user_id"], _SALT + 5, share, scene), np.float32(0), s)

    return Wrapped(artefact, change) if share else artefact


def coarse_logits(artefact: ScoringArtefact, step: float, scene: Scene) -> ScoringArtefact:
    """The artefact, with s rounded to multiples of `step`."""
    return Wrapped(artefact, lambda columns, s: np.round(s / np.float32(step)) * np.float32(step)) if step else artefact


def coarse_probabilities(rows: pa.Table, step: float, scene: Scene) -> pa.Table:
    """Rows of the prediction log with p rounded to multiples of `step`, and never to less than one of them."""
    p = numbers(rows, "p")
    return put(rows, {"p": np.maximum(np.round(p / step), 1) * step}, np.isfinite(p)) if step else rows


SERVINGS = (
    Bug(
        code="SERVE01",
        name="rates-exchanged",
        bug_class="feature-order",
        stage="input",
        tables=("features",),
        subject="prediction",
        also=("model", "user_ctr", "ad_ctr"),
        story=(
            "Columns are handed to the model by position, and a refactoring sorted two of them the other way round: the user's "
            "click rate and the ad's. Both are around four percent, so nothing crashes and nothing is out of range."
        ),
        looks_like=(
            "Logged features are right, recomputation agrees; the declared model gives other scores on them, by a little."
        ),
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests served by the refactored code",
        inject=for_share(_SALT + 1, rates_exchanged),
    ),
    Bug(
        code="SERVE02",
        name="logarithm-left-out",
        bug_class="feature-order",
        stage="input",
        tables=("features",),
        subject="prediction",
        also=("model", "ad_log_price"),
        story=(
            "Half the fleet runs the transformation of the version before, when the model still took the price and not its "
            "logarithm."
        ),
        looks_like="The log holds the logarithm, as it should; scores come out as if every ad were absurdly expensive.",
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests served by the old transformation",
        inject=for_share(_SALT + 2, logarithm_left_out),
    ),
    Bug(
        code="SERVE03",
        name="previous-version-serves",
        bug_class="wrong-model-version",
        stage="model",
        tables=("model",),
        subject="model",
        also=("prediction",),
        story=(
            "A rollout is reported as finished, and some servers have kept the old model in memory. Their log lines declare "
            "the new one, because the version is read from the registry and not from what is loaded."
        ),
        looks_like=(
            "Predictions are sensible and calibrated; for some users they are not those of the model that the log names."
        ),
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of users who are scored by the previous version",
        inject=previous_version,
    ),
    Bug(
        code="SERVE04",
        name="constant-fallback",
        bug_class="constant-fallback",
        stage="model",
        tables=("model",),
        subject="prediction",
        also=("model",),
        story=(
            "Scoring times out now and then, and the server answers with the base rate. On average nothing is wrong with that "
            "number."
        ),
        looks_like="One value of p, 0.04, has more mass than a continuous quantity can; total calibration hardly moves.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of (user, hour) answered by the fallback",
        inject=fallback,
    ),
    Bug(
        code="SERVE05",
        name="nan-embedding",
        bug_class="constant-fallback",
        stage="model",
        tables=("model",),
        subject="prediction",
        also=("model", "user_id", "user"),
        story=(
            "A shard of the user embeddings was saved in the middle of a diverging step and is NaN. A guard turns scores that "
            "are not numbers into 0, which as a logit is even odds."
        ),
        looks_like="A second mode in p at one half on top and a little lower down the page, for the same users every time.",
        doses={"strong": 0.3, "mild": 0.03, "trace": 0.003},
        dose_means="share of users whose embedding is NaN",
        inject=nan_to_zero,
    ),
    Bug(
        code="SERVE06",
        name="coarse-logits",
        bug_class="quantisation",
        stage="model",
        tables=("model",),
        subject="prediction",
        also=("model",),
        story=(
            "The model is exported with eight-bit integers and a scale chosen on random inputs; scores fall on a grid that is "
            "too wide."
        ),
        looks_like="Few distinct predictions for many impressions, ties everywhere in the ranking; the average is right.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="step of the grid in logits (0.005: half a percent of p at most)",
        inject=coarse_logits,
    ),
    Bug(
        code="SERVE07",
        name="coarse-probabilities",
        bug_class="quantisation",
        stage="log",
        tables=("predictions",),
        subject="prediction",
        also=("model", "p"),
        story=(
            "A response format with fixed decimals is put between the scorer and the log: what is written, and billed, is p "
            "rounded."
        ),
        looks_like=(
            "p has a handful of distinct values while s is as fine as ever; small probabilities are off by tens of percent."
        ),
        doses={"strong": 0.01, "mild": 0.001, "trace": 0.0001},
        dose_means="what p is rounded to (0.0001: about a quarter of a percent of p)",
        inject=coarse_probabilities,
    ),
)

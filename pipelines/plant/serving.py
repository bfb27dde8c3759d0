"""What the endpoint would have done with an hour or a day of impressions, at once: features, scores, prediction log rows.

The plant's traffic is answered by the legacy ranker (so that a world's days are the same whatever scores them); what it showed
is scored by the champion with the endpoint's own functions (`serving.scorer`).
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.batch import Array, FeatureBatch, FeatureSource, ViewStates
from features.requests import from_impressions
from features.schemas import PREDICTIONS
from pipelines.windows import feature_arrays
from serving.assignment import Assignment
from serving.scorer import ScoringArtefact, fetch


def features_of(source: FeatureSource, impressions: pa.Table, context: tuple[str, ...]) -> FeatureBatch:
    """The features of impressions as the endpoint would have fetched them."""
    return fetch(source, from_impressions(impressions, context))


def scores(artefact: ScoringArtefact, columns: Mapping[str, Array], slot: Array) -> dict[str, pa.Array]:
    """The columns s, p, artefact and encoder of the prediction log, for rows with these features at these slots."""
    s = artefact.score(columns)
    p = artefact.probability(s, slot).astype(np.float32)
    names = {"artefact": artefact.hash, "encoder": artefact.encoder_hash}
    return {"s": pa.array(s), "p": pa.array(p)} | {name: pa.repeat(pa.scalar(value), len(s)) for name, value in names.items()}


def predictions(
    impressions: pa.Table, batch: FeatureBatch, artefact: ScoringArtefact, assignment: Assignment
) -> pa.Table:  # fmt: skip
    """The prediction log's rows of impressions: features.schemas.PREDICTIONS, f_NAME, snapshot_VIEW, age_VIEW."""
    found = scores(artefact, batch.columns, impressions["slot"].to_numpy())
    users = impressions["user_id"].to_numpy()
    found["arm"] = pa.array(np.array(assignment.arms)[assignment.arms_of(users)])
    found["fallback_mask"] = pa.array(ViewStates.of(batch.views, len(impressions)).mask())
    columns = {name: found[name] if name in found else impressions[name] for name in PREDICTIONS.names}
    table = pa.table(columns).cast(PREDICTIONS)
    for name, values in feature_arrays(batch.columns).items():
        table = table.append_column(name, values)
    for name, state in batch.views.items():
        table = table.append_column(f"snapshot_{name}", pa.array(state.snapshot))
        table = table.append_column(f"age_{name}", pa.array(state.age_s))
    return table

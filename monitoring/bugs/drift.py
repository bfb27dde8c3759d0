"""Drifts: nothing is broken, the world has moved."""

import numpy as np
import pyarrow as pa

from features.ids import uniform
from monitoring.bugs.entry import Bug, Scene

_SALT = 0x4431


def towards_mobile(requests: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Requests (request_id, device) with a hashed `share` of those from other devices coming from a mobile instead."""
    moved = uniform(requests["request_id"].to_numpy(), _SALT, scene.seed) < share
    device = np.asarray(requests["device"].to_pylist(), dtype=np.str_)
    at = requests.schema.get_field_index("device")
    return requests.set_column(at, requests.schema.field(at), pa.array(np.where(moved, "mobile", device)))


DRIFTS = (
    Bug(
        code="DRIFT01",
        name="feature-drift",
        bug_class="feature-drift",
        stage="traffic",
        tables=("requests",),
        subject="device",
        story=(
            "An app release moves traffic from desktops, tablets and TVs to mobiles within a day. Requests are well-formed and "
            "the features are right; the model is asked about a mix that it was not fitted to."
        ),
        looks_like=(
            "The shares of device values leave their forecast for the day by far more than days differ from each other; nulls, "
            "other columns and replay stay as they were."
        ),
        doses={"strong": 0.5, "mild": 0.1, "trace": 0.005},
        dose_means="share of the requests from other devices",
        inject=towards_mobile,
    ),
)

"""An example of a bug that is in the world and not in the features: clicks of the night are lost on their way to the labels."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import uniform
from monitoring.bugs.entry import Bug, Scene


def nights_lost(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks without a hashed share of those that happened before 6 h UTC."""
    night = pc.less(pc.hour(clicks["event_timestamp"]), 6).to_numpy()
    lost = night & (uniform(clicks["click_id"].to_numpy(), 0x417, scene.seed) < share)
    return clicks.filter(pa.array(np.invert(lost)))


BUGS = (
    Bug(
        code="NIGHT01",
        name="nights-lost",
        bug_class="lost-clicks",
        stage="labels",
        tables=("clicks",),
        subject="clicks",
        story="The label join runs at six, while the files of the night are still being moved, and takes those that are there.",
        looks_like="Clicks joined fall below clicks accepted, every night and never by day.",
        doses={"strong": 1.0, "mild": 0.2, "trace": 0.02},
        dose_means="share of the clicks between midnight and six, a fifth of all",
        inject=nights_lost,
    ),
)

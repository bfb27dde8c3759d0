"""An example of bugs from outside the tree: a cache that keeps the wrong thing.  Run with `--bugs docs/examples/bugs`.

Both enter at stage `features`: between the feature store and the model, on rows as the endpoint fetched them.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import uniform
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import for_share, words


def coec_capped(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Features with ad_coec cut off at 1 in a hashed share of requests.  Written out, with Arrow alone."""
    hit = pa.array(uniform(rows["request_id"].to_numpy(), 0xCAFE, scene.seed) < share)
    capped = pc.min_element_wise(rows["ad_coec"], pa.scalar(1.0, pa.float32()), skip_nulls=False)
    at = rows.schema.get_field_index("ad_coec")
    return rows.set_column(at, rows.schema.field(at), pc.if_else(hit, capped, rows["ad_coec"]))


def formats_exchanged(rows: pa.Table) -> dict[str, np.ndarray]:
    """The new values of ad_format, for `for_share`: the moves that the catalogue uses itself see to the hashed share."""
    format = words(rows, "ad_format")
    return {"ad_format": np.where(format == "video", "banner", np.where(format == "banner", "video", format))}


BUGS = (
    Bug(
        code="CACHE01",
        name="coec-capped",
        bug_class="cast-or-rounding",
        stage="features",
        tables=("features",),
        subject="ad_coec",
        story=(
            "A cache stores rates in a byte each, from 0 to 1. Clicks over expected clicks is a ratio and goes higher; it "
            "comes back as 1."
        ),
        looks_like="Half of the ads have ad_coec of exactly 1, and none has more.",
        doses={"strong": 1.0, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests answered from the cache",
        inject=coec_capped,
    ),
    Bug(
        code="CACHE02",
        name="formats-exchanged",
        bug_class="category-reencoding",
        stage="features",
        tables=("features",),
        subject="ad_format",
        story=(
            "Two entries of the cache's dictionary were written in the wrong order: videos are served as banners, banners as "
            "videos."
        ),
        looks_like="The shares of two formats trade places.",
        doses={"strong": 1.0, "mild": 0.1, "trace": 0.005},
        dose_means="share of requests answered from the cache",
        inject=for_share(0xCAFF, formats_exchanged),
    ),
)

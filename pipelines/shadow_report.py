"""A shadow beside whoever answered, on the same requests: `clickproof rollout compare`.

Both are judged on the ads that were shown, at the slots that they were shown at: what the shadow would have shown instead,
nobody clicked.  So this finds a model that is broken, badly calibrated or much worse, and does not prove one better; an A/B
test does.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from features.labels import labels
from infra.clock import HOUR_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models.metrics import auc, calibration, normalised_entropy
from pipelines.shadow_ingest import TABLE

_KEYS = ["request_id", "ad_id"]


def compare(home: Home, chosen: Settings, artefact: str) -> dict[str, Any]:
    """What the lake knows of a shadow.  Raises ExplainedError where it has scored nothing yet."""
    lake = Lake.of(home)
    scores = lake.read(TABLE) if lake.has(TABLE) else None
    mine = scores.filter(pa.compute.equal(scores["artefact"], artefact)) if scores is not None else None
    if mine is None or not mine.num_rows:
        raise ExplainedError(
            f"the lake has no scores of {artefact}: make it a shadow (clickproof rollout shadow), let requests come, then "
            "clickproof ingest"
        )
    theirs = lake.read("predictions", ["request_id", "ad_id", "event_timestamp", "impression_id", "s", "p", "artefact"])
    since, until = (f(mine["event_timestamp"]) for f in (pa.compute.min, pa.compute.max))
    asked = theirs.filter(
        pa.compute.and_(
            pa.compute.greater_equal(theirs["event_timestamp"], since), pa.compute.less_equal(theirs["event_timestamp"], until)
        )
    )
    both = mine.select([*_KEYS, "s", "p"]).join(theirs, keys=_KEYS, join_type="inner", left_suffix="_shadow")
    shown = both.filter(pa.compute.is_valid(both["impression_id"]))
    return {
        "shadow": artefact,
        "answered_by": sorted(pa.compute.unique(both["artefact"]).to_pylist()),
        "requests": _distinct(both),
        "coverage": _distinct(both) / max(_distinct(asked), 1),
        "same_top": _same_top(both),
        "s_correlation": _correlation(both["s_shadow"].to_numpy(), both["s"].to_numpy()),
        "failed": float(np.mean(~np.isfinite(both["s_shadow"].to_numpy()))),
        **_labelled(home, chosen, shown),
    }


def _labelled(home: Home, chosen: Settings, shown: pa.Table) -> dict[str, Any]:
    """Quality of both on shown ads whose label can change no more."""
    shown = shown.append_column("arrived_at", shown["event_timestamp"])
    lake = Lake.of(home)
    clicks = lake.read("clicks", ["impression_id", "event_timestamp", "arrived_at"])
    found = labels(shown, clicks, watermark_us(home), round(chosen.attribution_hours * HOUR_US))
    order = {one: at for at, one in enumerate(shown["impression_id"].to_pylist())}
    at = np.array([order[one] for one in found["impression_id"].to_pylist()], np.int64)
    mature = found["mature"].to_numpy(zero_copy_only=False).astype(bool)
    label = found["click"].to_numpy(zero_copy_only=False)[mature].astype(np.float64)
    result: dict[str, Any] = {"shown_with_label": int(mature.sum()), "clicks": int(label.sum())}
    for name, column in (("shadow", "p_shadow"), ("answered", "p")):
        p = shown[column].to_numpy()[at][mature].astype(np.float64)
        quality = {"ne": normalised_entropy(p, label), "calibration": calibration(p, label), "auc": auc(p, label)}
        result[f"{name}_quality"] = {key: value if np.isfinite(value) else None for key, value in quality.items()}
    return result


def _distinct(rows: pa.Table) -> int:
    return len(pa.compute.unique(rows["request_id"]))


def _same_top(both: pa.Table) -> float:
    """Share of requests for which both score the same ad highest."""
    request = both["request_id"].to_numpy()
    tops = []
    for column in ("s_shadow", "s"):
        order = np.lexsort((both["ad_id"].to_numpy(), both[column].to_numpy(), request))
        last = np.append(np.flatnonzero(np.diff(request[order])), len(order) - 1)
        tops.append(both["ad_id"].to_numpy()[order][last])
    return float(np.mean(tops[0] == tops[1]))


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float | None:
    good = np.isfinite(one) & np.isfinite(other)
    if good.sum() < 2 or np.ptp(one[good]) == 0 or np.ptp(other[good]) == 0:
        return None
    return float(np.corrcoef(one[good], other[good])[0, 1])


def as_text(found: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['shadow']} beside {', '.join(found['answered_by'])}: {found['requests']:,} requests, "
        f"{found['coverage']:.1%} of those that were asked meanwhile",
        f"same ad on top {found['same_top']:.1%}; correlation of scores {_said(found['s_correlation'])}; "
        f"{found['failed']:.1%} of its scores are no numbers",
        f"on {found['shown_with_label']:,} shown ads whose label is final, {found['clicks']:,} clicks:",
    ]
    for name in ("shadow", "answered"):
        quality = found[f"{name}_quality"]
        lines.append(f"  {name:<9}" + "  ".join(f"{key} {_said(value)}" for key, value in quality.items()))
    return "\n".join(lines)


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

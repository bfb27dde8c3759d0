"""A small world for serving tests: five users and forty ads in dicts, and a logistic model of three features."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from features.batch import MISSING, OK, STALE, Array, FeatureBatch, RequestBatch, ViewState

NOW_US = 1_767_571_200_000_000  # 2026-01-05T00:00:00Z


@dataclass
class DictSource:
    """User and ad rows from dicts; what isn't there is MISSING, and ads above 30 have daily rows that are STALE."""

    users: Mapping[int, float] = field(default_factory=lambda: {user: user / 5 for user in range(5)})
    ads: Mapping[int, float] = field(default_factory=lambda: {ad: np.sin(ad) for ad in range(40)})

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        user = np.array([self.users.get(int(u), np.nan) for u in requests.user_id], np.float32)
        ad = np.array([self.ads.get(int(a), np.nan) for a in requests.ad_id], np.float32)
        clicked = np.stack([requests.ad_id % 3, np.full(len(requests), -1)], axis=1)
        ad_status = np.where(np.isnan(ad), MISSING, np.where(requests.ad_id > 30, STALE, OK)).astype(np.uint8)
        return FeatureBatch(
            {"user_ctr": user, "ad_ctr": ad, "user_clicked_categories": clicked, "device": requests.context["device"]},
            {
                "user_daily": _state(np.where(np.isnan(user), MISSING, OK).astype(np.uint8)),
                "ad_daily": _state(ad_status),
            },
        )


def _state(status: Array) -> ViewState:
    gone = status == MISSING
    return ViewState(
        np.where(gone, 0, 20260104),
        np.where(gone, np.nan, np.where(status == STALE, 200_000.0, 3600.0)).astype(np.float32),
        status,
    )


@dataclass(frozen=True)
class TinyArtefact:
    """s = 0.5 user_ctr + ad_ctr - 2, +0.3 on mobile; a slot costs 0.4."""

    hash: str = "tiny-model"
    encoder_hash: str = "tiny-encoder"
    family: str = "tiny"

    def score(self, columns: Mapping[str, Array]) -> Array:
        known = {name: np.nan_to_num(columns[name]) for name in ("user_ctr", "ad_ctr")}
        s = 0.5 * known["user_ctr"] + known["ad_ctr"] - 2.0 + 0.3 * (columns["device"] == "mobile")
        return s.astype(np.float32)

    def probability(self, s: Array, slot: Array) -> Array:
        return (1.0 / (1.0 + np.exp(-(s - 0.4 * np.asarray(slot))))).astype(np.float32)

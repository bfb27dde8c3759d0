"""Drifts: how far the mix moves, where the new ads go, who clicks less."""

import numpy as np
import pyarrow as pa
import pytest

from monitoring.bugs.drift import towards_mobile
from monitoring.bugs.entry import Scene

SCENE = Scene("rows", seed=7)


def test_the_drift_moves_a_share_of_the_other_devices_to_mobile_and_nothing_else() -> None:
    n = 20_000
    device = np.array(["desktop", "mobile", "tv", "tablet"])[np.arange(n) % 4]
    requests = pa.table({"request_id": np.arange(n), "device": device, "placement": ["top"] * n})
    moved = towards_mobile(requests, 0.4, SCENE)
    assert moved.schema == requests.schema
    assert moved.drop_columns("device").equals(requests.drop_columns("device"))
    share = (np.asarray(moved["device"].to_pylist()) == "mobile").mean()
    assert share == pytest.approx(0.25 + 0.75 * 0.4, abs=0.01)
    assert towards_mobile(requests, 0.0, SCENE).equals(requests)

"""Replay tells the feature path from the artefact: each skew is named by the half that it is in, and a clean log is silent."""

import numpy as np
import pyarrow as pa
import pytest

from features.batch import FeatureBatch, RequestBatch
from features.schemas import TIME
from infra.clock import DAY_US
from monitoring.replay import replay, sample

FIRST_US = 20_454 * DAY_US


class Model:
    """s = x - 2, p = sigmoid(s - slot / 10)."""

    hash, encoder_hash = "aaaa", "eeee"

    def score(self, columns):
        return (columns["x"] - 2).astype(np.float32)

    def probability(self, s, slot):
        return 1 / (1 + np.exp(-(s - slot / 10)))


class History:
    """x is a function of (user, ad); y is null for every seventh ad."""

    def fetch(self, requests: RequestBatch) -> FeatureBatch:
        x = (requests.user_id * 7 + requests.ad_id) % 11 / 10
        y = np.where(requests.ad_id % 7 == 0, np.nan, requests.ad_id / 3)
        return FeatureBatch({"x": x.astype(np.float32), "y": y.astype(np.float32), "device": requests.context["device"]}, {})


def log(n: int = 3000, seed: int = 0) -> pa.Table:
    """Predictions as the lake keeps them: a third were candidates that weren't shown, a fifth have no logged features."""
    rng = np.random.default_rng(seed)
    user, ad, slot = rng.integers(0, 99, n), rng.integers(0, 99, n), rng.integers(-1, 2, n)
    device = np.array(["mobile", "tv"])[rng.integers(0, 2, n)]
    batch = History().fetch(RequestBatch(np.arange(n), np.zeros(n, np.int64), user, ad, {"device": device})).columns
    s = Model().score(batch)
    p = Model().probability(s, slot)
    unlogged = rng.random(n) < 0.2
    return pa.table(
        {
            "request_id": np.arange(n) // 3,
            "event_timestamp": pa.array(FIRST_US + np.arange(n) * 1_000_000).cast(TIME),
            "user_id": user, "ad_id": ad, "slot": slot.astype(np.int16), "s": s,
            "p": pa.array(p.astype(np.float32), mask=slot < 0),
            "artefact": ["aaaa"] * n, "encoder": ["eeee"] * n,
            "f_ad_id": pa.array(ad, mask=unlogged),
            "f_x": pa.array(batch["x"], mask=unlogged),
            "f_y": pa.array(batch["y"], mask=unlogged),
            "f_device": pa.array(device.tolist(), mask=unlogged),
        }
    )  # fmt: skip


def changed(table: pa.Table, name: str, values: object, share: float) -> pa.Table:
    """`table` with `values` in a share of a column's known rows."""
    some = np.random.default_rng(1).random(table.num_rows) < share
    column = table[name].combine_chunks()
    new = pa.compute.if_else(pa.array(some), pa.array(values, column.type), column)
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, pa.compute.if_else(column.is_valid(), new, column))


def run(table: pa.Table):
    return replay(sample(table), History(), ("device",), lambda name: Model())


@pytest.mark.parametrize("seed", range(20))
def test_a_clean_log_is_silent(seed: int) -> None:
    checks = run(log(seed=seed))
    assert checks.ran == ["feature-replay", "model-replay"]
    assert checks.findings == []


def test_a_wrong_feature_whose_p_follows_from_it_is_the_feature_paths() -> None:
    table = changed(log(), "f_y", np.zeros(3000, np.float32), 0.02)
    (found,) = run(table).findings
    assert (found.bug_class, found.subject, found.since) == ("feature-skew", "y", "2026-01-01")
    assert found.evidence["mismatches"] > 20


def test_a_null_logged_as_zero_is_a_mismatch() -> None:
    table = log()
    y = table["f_y"].combine_chunks()
    zeros = pa.compute.if_else(pa.compute.is_nan(y), pa.scalar(0, pa.float32()), y)
    (found,) = run(table.set_column(table.schema.get_field_index("f_y"), "f_y", zeros)).findings
    assert found.subject == "y"


@pytest.mark.parametrize(
    ("column", "value", "detail"), [("s", 0.5, "off_s"), ("p", 0.9, "off_p"), ("encoder", "old", "off_encoder")]
)
def test_a_score_that_the_declared_artefact_does_not_give_is_the_artefacts(column: str, value: object, detail: str) -> None:
    (found,) = run(changed(log(), column, [value] * 3000, 0.05)).findings
    assert (found.bug_class, found.subject) == ("model-skew", "aaaa")
    assert found.evidence[detail] > 20
    assert sum(found.evidence[name] > 0 for name in ("off_s", "off_p", "off_encoder")) == 1


def test_the_sample_holds_whole_requests_and_only_logged_rows() -> None:
    table = log()
    few = sample(table, most=300)
    assert 150 < few.num_rows < 500
    assert few["f_ad_id"].null_count == 0
    logged = table.filter(table["f_ad_id"].is_valid())
    wanted = logged.filter(pa.compute.is_in(logged["request_id"], few["request_id"].combine_chunks()))
    assert wanted.num_rows == few.num_rows


def test_an_empty_log_is_skipped_with_the_reason() -> None:
    checks = run(log().slice(0, 0))
    assert checks.ran == []
    assert set(checks.skipped) == {"feature-replay", "model-replay"}

"""A shadow's scores in the lake, and what is said of it beside whoever answered."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from small_models import CONTEXT, EveryFamily

from features.ids import derived_id
from infra.clock import DAY_US, MINUTE_US, FixedClock, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake, watermark_us
from infra.settings import Settings
from models.artefact import load
from pipelines.event_ingest import to_table
from pipelines.prediction_ingest import ingest_predictions
from pipelines.shadow_ingest import ingest_shadows
from pipelines.shadow_report import as_text, compare
from serving import rollout_store
from serving.event_log import Click, Clicks
from serving.follower import Follower
from serving.rollout import add_shadow
from serving.scorer import Answer, RankRequest
from serving.shadow import Shadows


@pytest.fixture
def home(families: EveryFamily) -> Home:
    return families.home


@pytest.fixture
def served(home: Home, hashes: Mapping[str, str]) -> list[Answer]:
    """Requests that a champion answered beside a shadow, some of them clicked, all in the lake."""
    rollout_store.change(home, "test", "to see", lambda now: add_shadow(now, hashes["xgboost"]))
    at_us = watermark_us(home) - 2 * DAY_US  # long enough ago that all labels are final
    service = Follower(home, Settings(), FixedClock(at_us)).load()
    shadows, clicked = Shadows(home, Settings()), []
    answers = [service.scorer.rank(RankRequest(user, np.arange(1 + user, 21 + user), 4, CONTEXT)) for user in range(60)]
    for number, answer in enumerate(answers):
        if number % 4 == 0:
            impression = int(derived_id(np.array([answer.request_id]), np.array([0]))[0])
            clicked.append(Click(impression, impression, at_us + MINUTE_US))
    shadows.look()
    service.scorer.close()
    shadows.close()
    ingest_predictions(home)
    rows = to_table([Clicks(at_us + 2 * MINUTE_US, clicked)])
    day = pa.array([day_name(at_us)] * len(clicked))
    Lake.of(home).append("clicks", rows.append_column(pa.field("day", pa.string(), nullable=False), day))
    return answers


def test_every_score_is_in_the_lake_once(home: Home, served: list[Answer]) -> None:
    assert ingest_shadows(home, chunk_bytes=2000) == 60 * 20
    assert ingest_shadows(home) == 0
    rows = Lake.of(home).read("shadow_scores")
    assert rows.num_rows == 60 * 20
    shown = {(r["request_id"], r["slot"]): r["ad_id"] for r in rows.to_pylist() if r["slot"] >= 0}
    for user, answer in enumerate(served):
        ids = np.arange(1 + user, 21 + user)[answer.slate.shown].tolist()
        assert [shown[answer.request_id, slot] for slot in range(4)] == ids


def test_the_report_says_how_both_did(home: Home, served: list[Answer], hashes: Mapping[str, str]) -> None:
    trees = hashes["xgboost"]
    with pytest.raises(ExplainedError, match="no scores"):
        compare(home, Settings(), trees)
    ingest_shadows(home)
    found = compare(home, Settings(), trees)
    assert (found["requests"], found["coverage"], found["failed"]) == (60, 1.0, 0.0)
    assert found["answered_by"] == [hashes["logistic"]]
    model = load(home.artefacts, trees)
    scores = [model.score(answer.features.columns) for answer in served]
    same = [np.argmax(s) == np.argmax(answer.s) for s, answer in zip(scores, served, strict=True)]
    assert found["same_top"] == pytest.approx(np.mean(same), abs=1 / 60)  # scores of two engines may tie otherwise
    both = np.concatenate(scores), np.concatenate([answer.s for answer in served])
    assert found["s_correlation"] == pytest.approx(np.corrcoef(*both)[0, 1], abs=1e-4)
    assert (found["shown_with_label"], found["clicks"]) == (240, 15)
    p = np.concatenate([answer.p for answer in served]).astype(np.float64)
    label = np.array([slot == 0 and number % 4 == 0 for number in range(60) for slot in range(4)], float)
    background = -np.mean(label) * np.log(np.mean(label)) - (1 - np.mean(label)) * np.log(1 - np.mean(label))
    ne = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)) / background
    assert found["answered_quality"]["ne"] == pytest.approx(ne, rel=1e-5)
    assert found["answered_quality"]["calibration"] == pytest.approx(label.sum() / p.sum(), rel=1e-5)
    assert found["shadow_quality"] != found["answered_quality"]
    text = as_text(found)
    assert f"{found['shadow_quality']['ne']:.4f}" in text
    assert "15 clicks" in text

"""/metrics: names after Prometheus' conventions, counters that never fall, gauges that mean something over workers."""

import re
from collections import Counter
from time import monotonic

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from small_world import NOW_US

from features.batch import FeatureBatch, OneRequest
from features.online import OnlineSource
from infra.clock import FixedClock
from infra.home import Home
from serving.counts import Answers, Counts
from serving.exposition import FAMILIES, Family
from serving.gauges import FRESH_S, Gauges, Told
from serving.histogram import BUCKETS, Times
from serving.marks import Marks
from serving.metrics import ServingMetrics
from serving.policy import Slate
from serving.scorer import STAGES, Answer
from serving.segment_log import LogCounts, SegmentLog

UNITS = ("seconds", "bytes")


def values(metrics: ServingMetrics) -> dict[str, float]:
    """Sample with its labels -> value."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_name_says_what_it_is(family: Family) -> None:
    assert re.fullmatch(r"(clickproof|process)_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    stem = family.name.removesuffix("_total")
    for unit in UNITS:
        assert (unit in stem.split("_")) == stem.endswith(f"_{unit}")
    if family.kind == "histogram":
        assert family.name.endswith("_seconds")
    assert not {"ms", "us", "mb", "percent"} & set(stem.split("_"))
    assert family.said.endswith(".")
    assert len(family.said) > 10


def test_names_are_unique_and_the_text_is_what_prometheus_reads() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    text = ServingMetrics().text().decode()
    for family in FAMILIES:
        assert f"# HELP {family.name} " in text
        assert f"# TYPE {family.name} {family.kind}\n" in text


TIMES = st.builds(
    Times, st.lists(st.integers(0, 9), min_size=len(BUCKETS) + 1, max_size=len(BUCKETS) + 1), st.integers(0, 10**12)
)
LOGS = st.builds(LogCounts, *[st.integers(0, 9)] * 5, TIMES)
COUNTS = st.builds(
    Counts,
    requests=st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), st.integers(0, 9)),
    answers=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from("mn")),
        st.builds(Answers, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9).map(float)),
    ),
    rank=TIMES,
    logs=st.dictionaries(st.sampled_from(["predictions", "events"]), LOGS),
)


def flat(value: object, path: tuple[object, ...] = ()) -> Counter[tuple[object, ...]]:
    """Every number in counts, by where it stands."""
    if isinstance(value, int | float):
        return Counter({path: value})  # type: ignore[dict-item]
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    else:
        parts = [(name, getattr(value, name)) for name in value.__struct_fields__]  # type: ignore[attr-defined]
    return sum((flat(part, (*path, name)) for name, part in parts), Counter())


@given(one=COUNTS, other=COUNTS)
def test_counts_of_two_workers_are_the_sums_of_all_their_numbers(one: Counts, other: Counts) -> None:
    assert flat(one.plus(other)) == flat(one) + flat(other)


@given(counts=COUNTS)
def test_counts_survive_the_file_between_workers(counts: Counts) -> None:
    told = Told(1, counts, Gauges(models=(("m", "e", "f"),), ages_s={"v": 1.5}))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Told) == told


@given(one=LOGS, more=LOGS)
def test_what_a_log_did_since_is_the_difference(one: LogCounts, more: LogCounts) -> None:
    assert one.plus(more).plus(one, -1) == more


def answer(arm: str = "a", model: str = "m", p: tuple[float, ...] = (0.25, 0.5)) -> Answer:
    k = len(p)
    return Answer(
        1,
        NOW_US,
        arm,
        model,
        Slate(np.arange(k), np.ones(k, np.float32), False),
        np.zeros(4, np.float32),
        np.array(p, np.float32),
        FeatureBatch({}, {}),
        Marks(True, (), (), (), ""),
        (1_000,) * len(STAGES),
    )


def test_answers_are_told_by_arm_and_model_with_the_clicks_they_promise() -> None:
    metrics = ServingMetrics()
    metrics.loaded("m", "e", "f", {"a": "m", "b": "n"})
    assert values(metrics)['clickproof_answers_total{arm="b",model="n"}'] == 0
    for arm, model in (("a", "m"), ("a", "m"), ("a", "popularity")):
        metrics.ranked(answer(arm, model), 1_000, 1_000, 10_000)
    found = values(metrics)
    assert found['clickproof_answers_total{arm="a",model="m"}'] == 2
    assert found['clickproof_shown_ads_total{arm="a",model="m"}'] == 4
    assert found['clickproof_predicted_clicks_total{arm="a",model="m"}'] == 1.5
    assert found['clickproof_answers_total{arm="a",model="popularity"}'] == 1


def test_logs_are_read_when_somebody_asks_and_what_a_closed_one_did_stays(home: Home) -> None:
    metrics = ServingMetrics()
    first = SegmentLog(home, home.log, ".x")
    metrics.watch_log("predictions", first)
    written = first.append(b"record")
    assert values(metrics)['clickproof_log_bytes_total{log="predictions"}'] == written
    first.close()
    second = SegmentLog(home, home.log, ".x")
    metrics.watch_log("predictions", second)
    metrics.watch_log("predictions", second)
    second.append(b"record")
    for _ in range(2):
        found = values(metrics)
    assert found['clickproof_log_records_total{log="predictions"}'] == 2
    assert found['clickproof_log_segments_total{log="predictions"}'] == 2
    assert found['clickproof_log_fsync_seconds_count{log="predictions"}'] >= 1
    assert found["clickproof_disk_free_bytes"] > 0
    second.close()


def others(*told: Told) -> ServingMetrics:
    return ServingMetrics(lambda: list(told), number=0, workers=1 + len(told))


def test_gauges_of_several_workers_are_the_worst_of_theirs() -> None:
    other = Gauges(
        models=(("m", "e", "f"), ("n", "e", "f")),
        rollout=7,
        refused=1,
        sent_back=2,
        shadows_behind_s=40.0,
        ages_s={"v": 90.0},
        unsynced_s={"events": 3.0},
    )
    metrics = others(Told(1, Counts(), other))
    metrics.loaded("m", "e", "f", {})
    metrics.rollout(8)
    found = values(metrics)
    assert (found["clickproof_ready"], found["clickproof_workers"], found["clickproof_workers_ready"]) == (1, 2, 2)
    assert found['clickproof_model_workers{model="m"}'] == 2
    assert found['clickproof_model_workers{model="n"}'] == 1
    assert found['clickproof_model_info{encoder="e",family="f",model="n"}'] == 1
    assert found['clickproof_rollout_number{worker="0"}'] == 8
    assert found['clickproof_rollout_number{worker="1"}'] == 7
    assert found["clickproof_models_refused"] == 1
    assert found["clickproof_canary_rollbacks_total"] == 2
    assert found["clickproof_shadows_behind_seconds"] == 40
    assert found['clickproof_feature_age_seconds{view="v"}'] == 90
    assert found['clickproof_log_unsynced_seconds{log="events"}'] == 3
    assert found['process_open_fds{worker="0"}'] > 2


def test_a_worker_that_stopped_telling_is_not_ready_and_its_counts_stay() -> None:
    gone = Told(1, Counts(clicks={"accepted": 5}), Gauges(at_s=monotonic() - FRESH_S - 1, models=(("m", "e", "f"),)))
    metrics = others(gone)
    metrics.loaded("m", "e", "f", {})
    found = values(metrics)
    assert (found["clickproof_ready"], found["clickproof_workers_ready"]) == (0, 1)
    assert found['clickproof_clicks_total{outcome="accepted"}'] == 5


def asked_for(source: OnlineSource, rows: int) -> None:
    """Fetch a user and so many ads that nobody knows."""
    source.fetch(OneRequest(5, np.arange(rows), NOW_US, {"device": "mobile"}))


def test_sources_are_read_when_somebody_asks_and_what_one_that_is_gone_counted_stays(home: Home) -> None:
    first, second = (OnlineSource(home, ("user", "ad"), ("device",)) for _ in range(2))
    metrics = ServingMetrics()
    asked_for(first, 100)  # before it is watched: warming up is no traffic
    metrics.watch([first], FixedClock(NOW_US))
    key = 'clickproof_flawed_rows_total{kind="missing",view="user_daily"}'
    assert values(metrics)[key] == 0
    asked_for(first, 3)
    assert values(metrics)[key] == 3
    metrics.watch([first, second], FixedClock(NOW_US))
    asked_for(first, 4)
    asked_for(second, 5)
    metrics.watch([second], FixedClock(NOW_US))
    asked_for(first, 50)  # whoever still holds it is not counted
    asked_for(second, 6)
    found = values(metrics)
    assert found[key] == 18
    assert found['clickproof_user_cache_total{outcome="miss"}'] == 1  # the first one's was before
    assert found['clickproof_user_cache_total{outcome="hit"}'] == 3
    for source in (first, second):
        source.close()

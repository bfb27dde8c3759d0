"""The online stores and their reader: the guard, ages, refreshing, and the same answer from SQLite, Redis and the as-of
source."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from features import recent, snapshots
from features.asof import asof_index
from features.batch import MISSING, OK, STALE, OneRequest, RequestBatch
from features.catalogue import SEQUENCE_LENGTH, view
from features.online import OnlineSource
from features.online_guard import admitted
from features.online_store import open_store, push, write
from features.online_values import Mark, encode, key_bytes, key_values
from features.packed import layout
from features.requests import from_impressions
from features.schemas import CATEGORIES
from features.sources import AsOfSource
from infra.clock import HOUR_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from pipelines.materialize import materialize_online

T = recent.TICK_US


def requests_at(market, time_us: int, n: int | None = None) -> RequestBatch:
    asked = from_impressions(Lake.of(market.home).read("impressions"), market.spec.context)
    return RequestBatch(
        asked.row_id[:n], np.full(len(asked.row_id[:n]), time_us), asked.user_id[:n], asked.ad_id[:n],
        {name: values[:n] for name, values in asked.context.items()},
    )  # fmt: skip


def recent_rows(user_id: list[int], end_us: list[int], shown: list[float]):
    n = len(user_id)
    rows = {f.name: np.full(n, np.nan, np.float32) for f in view("user_recent").features}
    rows |= {
        "user_id": np.array(user_id), "user_recent_until": np.array(end_us), "user_impressions_1h": np.array(shown, np.float32),
        "user_last_impression": np.array(end_us), "user_last_click": np.full(n, -1),
        "user_category_recent": np.zeros((n, CATEGORIES), np.float32), "user_clicked_categories": np.full((n, SEQUENCE_LENGTH),
        -1),
    }  # fmt: skip
    return recent.rows_table(rows)


def stored_recent(store, users: list[int]):
    recently = view("user_recent")
    return layout(recently).unpack(store.rows((recently,), key_bytes(recently, users))["user_recent"])


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else request.getfixturevalue("redis_server")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def assert_same(one, other):
    assert one.columns.keys() == other.columns.keys()
    for name, values in one.columns.items():
        assert values.dtype.kind == other.columns[name].dtype.kind
        np.testing.assert_array_equal(values, other.columns[name], name)
        if values.dtype == np.float32:
            assert values.tobytes() == other.columns[name].tobytes(), name
    for name, state in one.views.items():
        for field in ("snapshot", "age_s", "status"):
            np.testing.assert_array_equal(getattr(state, field), getattr(other.views[name], field), f"{name} {field}")


@pytest.mark.parametrize("service", ["ctr_full", "ctr_batch"])
def test_the_store_answers_bit_for_bit_what_the_as_of_source_does(market, url, service):
    materialize_online(market.home, market.spec, market.now_us, url)
    asked = requests_at(market, market.now_us)
    context = {**asked.context, "placement": asked.context["placement"].copy()}
    asked = dataclasses.replace(asked, user_id=asked.user_id.copy(), ad_id=asked.ad_id.copy(), context=context)
    asked.user_id[:9], asked.ad_id[5:14], context["placement"][3:7] = 123, 456, "zzz"
    source = OnlineSource(market.home, market.spec.entities, market.spec.context, service, url)
    expected = AsOfSource(market.home, market.spec.entities, market.spec.context, service).fetch(asked)
    assert_same(source.fetch(asked), expected)
    source.close()


def test_one_users_request_is_answered_like_a_batch(market):
    source = OnlineSource(market.home, market.spec.entities, market.spec.context)
    whole = requests_at(market, market.now_us, 20)
    expected = AsOfSource(market.home, market.spec.entities, market.spec.context)
    for user in (int(whole.user_id[0]), -1, 123, int(whole.user_id[0])):
        given = {name: values[0].item() for name, values in whole.context.items()}
        for n in (20, 1):
            one = OneRequest(user, whole.ad_id[:n], market.now_us, given)
            assert_same(source.fetch(one), expected.fetch(one))
    assert source.users.counts == {"hits": 4, "misses": 2}  # of the unknown user nothing is read
    source.close()


def test_an_older_row_is_refused_and_counted_and_an_equal_or_newer_one_is_written(home, url):
    store = open_store(home, url)
    assert push(store, "user_recent", recent_rows([1, 2], [10 * T, 10 * T], [1.0, 1.0])) == (2, 0)
    assert push(store, "user_recent", recent_rows([1, 2], [9 * T, 11 * T], [5.0, 5.0])) == (1, 1)
    assert push(store, "user_recent", recent_rows([1], [10 * T], [7.0])) == (1, 0)
    rows = stored_recent(store, [1, 2, 3])
    shown = rows.numbers[:, layout(view("user_recent")).at["user_impressions_1h"]]
    np.testing.assert_array_equal(shown[:, 0], np.array([7, 5, np.nan, np.nan], np.float32))
    assert rows.snapshot.tolist() == [10, 11, 0, 0]
    assert rows.missing.tolist() == [False, False, True, True]
    assert store.marks()["user_recent"][:3] == (11, 11 * T, 11 * T + recent.DELAY_US)
    store.close()


def test_of_several_rows_of_a_user_in_one_push_the_newest_is_kept(home, url):
    store = open_store(home, url)
    push(store, "user_recent", recent_rows([1, 1, 1], [12 * T, 14 * T, 13 * T], [2.0, 4.0, 3.0]))
    assert stored_recent(store, [1]).numbers[0, layout(view("user_recent")).at["user_impressions_1h"]].tolist() == [4]
    store.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 4)), max_size=20))
def test_rows_written_in_order_of_arrival_leave_what_the_as_of_rule_picks(rows):
    rows = sorted(((user, event, event + delay) for user, event, delay in rows), key=lambda row: row[2])
    stored: dict[int, tuple[int, int, int]] = {}
    for i, (user, event, available) in enumerate(rows):
        held = stored.get(user)
        if len(admitted(np.array([event]), np.array([available]), [held and held[:2]])):
            stored[user] = (event, available, i)
    key, event, available = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    for user in range(3):
        found = asof_index(np.array([user]), np.array([99]), key, available, event)[0]
        assert found == (stored[user][2] if user in stored else -1)


def test_a_batch_view_is_not_pushed(home):
    store = open_store(home, "")
    with pytest.raises(ValueError, match="batch view"):
        push(store, "user_daily", recent_rows([1], [T], [1.0]))
    store.close()


def test_ads_written_later_are_seen_by_a_running_reader(market, url, tmp_path):
    shutil.copytree(market.home.features, tmp_path / "features")
    home = Home(tmp_path)
    early = market.now_us - 24 * HOUR_US
    materialize_online(home, market.spec, early, url)
    source = OnlineSource(home, market.spec.entities, market.spec.context, url=url)
    expected = AsOfSource(home, market.spec.entities, market.spec.context)
    assert_same(source.fetch(requests_at(market, early)), expected.fetch(requests_at(market, early)))
    materialize_online(home, market.spec, market.now_us, url)
    assert_same(source.fetch(requests_at(market, market.now_us)), expected.fetch(requests_at(market, market.now_us)))
    source.close()


def test_missing_and_stale_rows_are_marked_and_counted(market):
    source = OnlineSource(market.home, market.spec.entities, market.spec.context)
    asked = requests_at(market, market.now_us + HOUR_US, 4)
    asked = dataclasses.replace(asked, user_id=np.array([asked.user_id[0], 5, asked.user_id[0], 5]))
    state = source.fetch(asked).views["user_recent"]
    assert state.status.tolist() == [STALE, MISSING, STALE, MISSING]
    assert source.counts["user_recent.stale"] == 2
    assert source.counts["user_recent.missing"] == 2
    assert source.counts["ad_daily.stale"] == 0
    source.close()


def test_an_empty_store_answers_missing(market, home, url):
    source = OnlineSource(home, market.spec.entities, market.spec.context, url=url)
    got = source.fetch(requests_at(market, market.now_us, 3))
    assert all((state.status == MISSING).all() for state in got.views.values())
    assert np.isnan(got.columns["user_ctr"]).all()
    source.close()


def test_a_view_fed_before_its_first_mark_is_still_loaded(market, home):
    profile = view("ad_profile")
    rows = snapshots.read(market.home, "ad_profile", snapshots.days(market.home, "ad_profile")[0])
    source = OnlineSource(home, market.spec.entities, market.spec.context)
    store = open_store(home)
    source.fetch(requests_at(market, market.now_us, 3))
    write(store, profile.name, rows)
    asked = requests_at(market, market.now_us, 3)
    state = source.fetch(dataclasses.replace(asked, ad_id=np.full(3, rows["ad_id"][0].as_py()))).views["ad_profile"]
    assert state.status.tolist() == [OK, OK, OK]
    assert np.isnan(state.age_s).all()
    store.close()
    source.close()


def test_a_read_only_home_can_be_read_and_not_written(market, url):
    materialize_online(market.home, market.spec, market.now_us, url)
    base = Home(market.home.root, writable=False)
    source = OnlineSource(base, market.spec.entities, market.spec.context, url=url)
    assert (source.fetch(requests_at(market, market.now_us, 3)).views["ad_daily"].snapshot > 0).any()
    source.close()
    store = open_store(base, url)
    with pytest.raises(PermissionError, match="only to its own branch"):
        push(store, "user_recent", recent_rows([1], [T], [1.0]))
    store.close()


def test_marks_never_go_back(home, url):
    store = open_store(home, url)
    write(store, "user_recent", recent_rows([1], [5 * T], [1.0]), Mark(5, 5 * T, 5 * T))
    write(store, "user_recent", recent_rows([2], [4 * T], [1.0]), Mark(4, 4 * T, 4 * T))
    assert store.marks()["user_recent"] == Mark(5, 5 * T, 5 * T, writes=2, layout=layout(view("user_recent")).id)
    store.close()


def test_keys_survive_the_wire():
    encoded = encode(view("user_recent"), recent_rows([3, 1 << 61], [7 * T, 8 * T], [np.nan, 2.5]))
    np.testing.assert_array_equal(key_values(view("user_recent"), encoded.keys), [3, 1 << 61])
    words = np.array(["top", "überall", ""])
    np.testing.assert_array_equal(key_values(view("placement_daily"), key_bytes(view("placement_daily"), words)), words)


def test_a_store_that_never_answered_leaves_requests_with_nothing_where_that_is_wanted(market):
    spec = market.spec
    one = OneRequest(3, np.arange(5), market.now_us, {"device": "tv", "placement": "home_top", "page_topic": 1})
    strict = OnlineSource(market.home, spec.entities, spec.context, url="redis://127.0.0.1:1")
    with pytest.raises(redis.ConnectionError):
        strict.fetch(one)
    lenient = OnlineSource(market.home, spec.entities, spec.context, url="redis://127.0.0.1:1", degrade=True)
    got = lenient.fetch(one)
    assert got.degraded == "priors"
    assert all((state.status == MISSING).all() for state in got.views.values())
    assert np.isnan(got.columns["ad_ctr"]).all()
    np.testing.assert_array_equal(got.columns["page_topic"], np.ones(5))
    for source in (strict, lenient):
        source.close()


def test_an_unknown_url_is_refused(home):
    with pytest.raises(ExplainedError, match="redis://HOST:PORT"):
        open_store(home, "postgres://x")

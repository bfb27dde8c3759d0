"""The exact tier is silent on clean hours and names what is broken: ids, contract, books, ages, versions, missing time."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from infra.clock import DAY_US, HOUR_US
from monitoring.findings import Finding
from monitoring.tiers.exact import ExactTier
from monitoring.tiers.facts import UnderWay
from monitoring.window import BOOKS, REFUSED, LogColumns, Window

START_US = 20_480 * DAY_US
COLUMNS = LogColumns(("device",), ("price",), max_age_s={"user_daily": 30 * 3600.0})
WARM = 4 * 24
Change = Callable[[Window], Window]


def requests_of(number: int) -> float:
    """Expected requests of an hour: a daily wave."""
    return 150 * (1 + 0.5 * np.sin(2 * np.pi * (number % 24) / 24))


def hour(number: int, seed: int = 0, scale: float = 1.0) -> Window:
    """A clean hour: requests of two rows, clicks on every twentieth row, books that agree."""
    rng = np.random.default_rng((seed, number))
    start = START_US + number * HOUR_US
    asked = int(rng.poisson(requests_of(number) * scale * rng.lognormal(0, 0.05)))
    request = np.repeat(rng.integers(1, 2**60, asked), 2)
    n = len(request)
    time = np.repeat(np.sort(start + rng.integers(0, HOUR_US, asked)), 2)
    log = pa.table({
        "id": [f"{r:x}-{i % 2}" for i, r in enumerate(request)], "time": time, "p": rng.beta(2, 40, n),
        "model": ["m1"] * n, "encoder": ["e1"] * n, "request": request, "slot": np.arange(n) % 2,
        "fallback_mask": np.zeros(n, np.int32),
        "f_device": np.array(["mobile", "tv"])[rng.integers(0, 2, n)], "f_price": rng.lognormal(2, 1, n),
        "age_user_daily": (time - START_US) % DAY_US / 1e6 + 300,
    })  # fmt: skip
    clicks = log.slice(0, n // 20)
    clicked = clicks["time"].to_numpy() + 5_000_000
    clicks = clicks.append_column("clicked_at", pa.array(clicked)).append_column("arrived_at", pa.array(clicked + 1_000_000))
    made = {
        ("impressions", "landed"): n,
        ("impressions", "accepted"): n,
        ("impressions", "duplicates"): 0,
        ("predictions", "accepted"): n,
    }
    made |= {("clicks", stage): len(clicks) for stage in ("landed", "accepted", "joined")}
    return Window(start, start + HOUR_US, log, clicks, books=books(made))


def books(made: dict[tuple[str, str], int]) -> pa.Table:
    return pa.Table.from_pylist([{"stream": s, "stage": g, "rows": n} for (s, g), n in made.items()], schema=BOOKS)


def log_with(name: str, change: Callable[[pa.Table], object]) -> Change:
    def apply(window: Window) -> Window:
        log = window.log
        return dataclasses.replace(window, log=log.set_column(log.schema.get_field_index(name), name, pa.array(change(log))))

    return apply


def counted(stream: str, stage: str, factor: float) -> Change:
    def apply(window: Window) -> Window:
        assert window.books is not None
        rows = {(r["stream"], r["stage"]): r["rows"] for r in window.books.to_pylist()}
        rows[stream, stage] = int(rows[stream, stage] * factor)
        return dataclasses.replace(window, books=books(rows))

    return apply


def only(keep: Callable[[pa.Table, int], np.ndarray]) -> Change:
    return lambda w: dataclasses.replace(w, log=w.log.filter(pa.array(keep(w.log, w.start_us))))


def some(values: object, other: object, share: float = 0.2) -> np.ndarray:
    """`other` in the first `share` of the rows."""
    values = np.asarray(values)
    return np.where(np.arange(len(values)) < share * len(values), other, values)


def clicks_with(name: str, shift: int) -> Change:
    def apply(window: Window) -> Window:
        assert window.clicks is not None
        at = window.clicks.schema.get_field_index(name)
        return dataclasses.replace(
            window, clicks=window.clicks.set_column(at, name, pa.array(window.clicks[name].to_numpy() + shift))
        )

    return apply


REFUSALS = pa.Table.from_pylist(
    [{"stream": "clicks", "field": "page", "rule": "must be 0 .. 23", "rows": 8},
     {"stream": "impressions", "field": "event_timestamp", "rule": "must not be later than arrived_at", "rows": 30}],
    schema=REFUSED,
)  # fmt: skip

BROKEN: dict[str, tuple[Change, str, str, str]] = {
    "rows twice": (
        lambda w: dataclasses.replace(w, log=pa.concat_tables([w.log, w.log.slice(0, 20)])),
        "duplicate-ids", "impressions", "duplicated-events",
    ),
    "p above one": (log_with("p", lambda t: some(t["p"], 1.5)), "out-of-range", "prediction", "schema-change"),
    "p unknown": (log_with("p", lambda t: some(t["p"], np.nan)), "out-of-range", "prediction", "constant-fallback"),
    "price as text": (log_with("f_price", lambda t: t["f_price"].cast(pa.string())), "contract", "price", "schema-change"),
    "price is gone": (
        lambda w: dataclasses.replace(w, log=w.log.drop_columns(["f_price"])), "contract", "price", "schema-change"
    ),
    "another model": (
        log_with("model", lambda t: some(t["model"].to_pylist(), "m2")), "unknown-version", "m2", "wrong-model-version"
    ),
    "clicks not joined": (counted("clicks", "joined", 0.5), "unreconciled", "clicks", "lost-clicks"),
    "clicks vanish at the door": (counted("clicks", "accepted", 0.3), "unreconciled", "clicks", "lost-clicks"),
    "impressions not delivered": (counted("impressions", "accepted", 0.9), "volume-down", "impressions", "partial-partition"),
    "features of yesterday": (
        log_with("age_user_daily", lambda t: some(t["age_user_daily"], t["age_user_daily"].to_numpy() + 86_400)),
        "too-old", "user_daily", "stale-features",
    ),
    "clicked before shown": (clicks_with("clicked_at", -3_600_000_000), "clock-skew", "clicks", "schema-change"),
    "rows refused": (lambda w: dataclasses.replace(w, refused=REFUSALS), "contract", "page", "schema-change"),
    "times refused": (lambda w: dataclasses.replace(w, refused=REFUSALS), "clock-skew", "event_timestamp", "schema-change"),
    "an empty hour": (only(lambda t, _: np.zeros(len(t), bool)), "hours-missing", "impressions", "partial-partition"),
    "half an hour": (
        only(lambda t, start: t["time"].to_numpy() > start + HOUR_US // 2), "hours-missing", "impressions", "partial-partition"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def warm() -> ExactTier:
    tier = ExactTier(COLUMNS)
    for number in range(WARM):
        tier.test(hour(number))
        tier.learn()
    return tier


def pages(tier: ExactTier, window: Window) -> list[Finding]:
    return [f for f in tier.test(window) if f.severity == "page"]


@pytest.mark.parametrize("seed", range(2))
def test_clean_days_are_silent(warm: ExactTier, seed: int) -> None:
    tier = copy.deepcopy(warm)
    for number in range(WARM, WARM + 6 * 24):
        assert tier.test(hour(number, seed + 5)) == []
        tier.learn()
    assert {"identity", "contract", "books", "ages", "versions", "gaps", "volume of impressions"} <= set(tier.ran())
    assert tier.unable() == {}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_in_its_first_hour(warm: ExactTier, name: str) -> None:
    change, symptom, subject, bug_class = BROKEN[name]
    found = pages(copy.deepcopy(warm), change(hour(WARM + 13)))
    assert (symptom, subject, bug_class) in [(f.symptom, f.subject, f.bug_class) for f in found]
    assert all(f.tier == "exact" and f.excess >= 1 and f.onset_us is not None for f in found)


def test_a_redelivered_hour_is_seen_by_its_ids(warm: ExactTier) -> None:
    tier = copy.deepcopy(warm)
    again = dataclasses.replace(hour(WARM), log=hour(WARM - 2).log)
    assert ("duplicate-ids", "impressions") in [(f.symptom, f.subject) for f in pages(tier, again)]


def test_a_benign_share_of_refusals_is_learned() -> None:
    refused = pa.Table.from_pylist(
        [{"stream": "clicks", "field": "page", "rule": "must be 0 .. 23", "rows": 1}], schema=REFUSED
    )
    tier = ExactTier(COLUMNS)
    for number in range(4 * 24):
        tier.test(dataclasses.replace(hour(number), refused=refused))
        tier.learn()
    for number in range(4 * 24, 6 * 24):
        assert pages(tier, dataclasses.replace(hour(number), refused=refused)) == []
        tier.learn()


def test_a_new_version_is_told_for_a_day_and_then_known(warm: ExactTier) -> None:
    tier, told = copy.deepcopy(warm), 0
    for number in range(WARM, WARM + 30):
        told += bool(pages(tier, log_with("model", lambda t: ["m2"] * len(t))(hour(number))))
    assert told == 24


def test_identity_and_range_need_no_history() -> None:
    found = pages(ExactTier(COLUMNS), BROKEN["rows twice"][0](hour(0)))
    assert [f.symptom for f in found] == ["duplicate-ids"]
    tier = ExactTier(COLUMNS)
    assert "duplicate-ids" not in [f.symptom for f in pages(tier, hour(0))]
    assert {"versions", "gaps", "volume of impressions"} <= set(tier.unable())


def test_an_outside_log_of_three_columns_is_enough() -> None:
    tier = ExactTier(LogColumns((), ()))
    for number in range(30):
        window = hour(number)
        bare = Window(window.start_us, window.end_us, window.log.select(["id", "time", "p"]))
        assert pages(tier, bare) == []
        tier.learn()
    assert set(tier.unable()) == {"books", "versions", "ages"}


def test_a_rule_that_was_never_broken_pages_at_a_small_share(warm: ExactTier) -> None:
    tier, found = copy.deepcopy(warm), []
    for number in range(WARM, WARM + 4):
        window = hour(number)
        rows = max(1, window.log.num_rows // 50)
        refused = pa.Table.from_pylist(
            [{"stream": "impressions", "field": "page", "rule": "must be 0 .. 23", "rows": rows}], schema=REFUSED
        )
        found += pages(tier, dataclasses.replace(window, refused=refused))
        tier.learn()  # nobody had opened an incident in the hours before: they must not become the usual rate
    assert ("contract", "page") in [(f.symptom, f.subject) for f in found]


def test_rows_may_be_under_way_twice_as_far_from_their_mean_as_ever() -> None:
    behind, ahead, never = UnderWay(), UnderWay(), UnderWay()
    for rows in (2, 0, 4, -2):
        behind.add(rows, rows)  # as many one way as the other
        ahead.add(rows - 14, -300)  # of requests that show nothing, only the next stage knows
    assert (behind.slack, ahead.slack, never.slack) == (7, 13, 0)

"""The distribution tier on a log of another business: quiet on clean days, right on damage, honest on little history."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from seasonal_log import COLUMNS, START_US, Business

from features.ids import uniform
from infra.clock import DAY_US, HOUR_US
from monitoring.findings import SYMPTOMS, Finding
from monitoring.tiers.distribution import DistributionTier
from monitoring.window import LogColumns, Window

REFERENCE, WATCHED, ROWS = 9, 3, 2500  # days, days, rows a day
NOON = 13  # the hour in which damage begins


@pytest.fixture(scope="module")
def business() -> tuple[DistributionTier, list[Window]]:
    """A tier that knows the reference days, and the windows of the days after."""
    source, tier = Business(5, ROWS), DistributionTier(COLUMNS)
    follow(tier, source.windows(0, REFERENCE))
    return tier, list(source.windows(REFERENCE, REFERENCE + WATCHED))


def follow(tier: DistributionTier, windows: Iterable[Window]) -> list[Finding]:
    """Findings of windows in order; each learned, as no incident is open."""
    found = []
    for window in windows:
        found += tier.test(window)
        tier.learn()
    return found


def watch(tier: DistributionTier, windows: list[Window]) -> list[Finding]:
    """The same by a copy of the tier."""
    return follow(copy.deepcopy(tier), windows)


def pages(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity == "page"]


@pytest.fixture(scope="module")
def at_noon(business: tuple[DistributionTier, list[Window]]) -> DistributionTier:
    """The tier after a clean morning."""
    tier, windows = copy.deepcopy(business[0]), business[1]
    assert pages(follow(tier, windows[:NOON])) == []
    return tier


def changed(name: str, change: Callable[[np.ndarray], np.ndarray], share: float = 0.5) -> Callable[[Window], Window]:
    """A window whose column is changed in a share of the rows."""

    def damage(window: Window) -> Window:
        log = window.log
        hit = uniform(log["id"].to_numpy(), 7) < share
        values = np.array(log[name].to_numpy(zero_copy_only=False))
        values[hit] = change(values)[hit]
        at = log.column_names.index(name)
        return Window(window.start_us, window.end_us, log.set_column(at, name, pa.array(values, log.schema.field(name).type)))

    return damage


def swap(one: str, other: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: np.where(v == one, other, np.where(v == other, one, v)).astype(object)


def test_clean_days_do_not_page(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = business
    assert [str(f) for f in pages(watch(tier, windows))] == []


DAMAGE = {
    "nulls": (changed("f_x3", lambda v: np.full_like(v, np.nan)), "x3", "nulls-up", "null-spike"),
    "zeros": (changed("f_x2", lambda v: 0 * v), "x2", "zeros-up", "default-value-skew"),
    "constant": (changed("f_x0", lambda v: 0 * v + np.float32(0.77)), "x0", "mode-up", "default-value-skew"),
    "nulls filled with zeros": (
        changed("f_x8", lambda v: np.nan_to_num(v), 1.0), "x8", "zeros-up", "imputation-difference"),
    "thousand times": (changed("f_x6", lambda v: 1000 * v, 0.25), "x6", "tail-up", "unit-change"),
    "rounded": (changed("f_x5", lambda v: np.round(v, 1)), "x5", "distinct-down", "cast-or-rounding"),
    "half precision": (
        changed("f_x9", lambda v: v.astype(np.float16).astype(np.float32)), "x9", "distinct-down", "cast-or-rounding"),
    "new value": (changed("f_c4", lambda v: np.full_like(v, "other"), 0.3), "c4", "new-values", "category-reencoding"),
    "fixed attribute": (changed("f_c3", swap("v0", "v3")), "c3", "invariant-broken", "category-reencoding"),
    "constant p": (changed("p", lambda v: 0 * v + 0.05), "prediction", "mode-up", "constant-fallback"),
    "rounded p": (changed("p", lambda v: np.round(v, 2)), "prediction", "distinct-down", "quantisation"),
    "p corrected wrongly": (
        changed("p", lambda v: v / (v + 0.2 * (1 - v))), "prediction", "residual-moved", "uncorrected-downsampling"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_strong_damage_pages_within_two_hours_and_is_named(
    name: str, business: tuple[DistributionTier, list[Window]], at_noon: DistributionTier
) -> None:
    _, windows = business
    damage, subject, symptom, bug_class = DAMAGE[name]
    found = pages(watch(at_noon, [damage(w) for w in windows[NOON : NOON + 2]]))
    assert found, "nothing paged"
    assert (found[0].subject, found[0].symptom, found[0].bug_class) == (subject, symptom, bug_class), [str(f) for f in found]
    assert found[0].symptom in SYMPTOMS["distribution"]
    assert found[0].tier == "distribution"
    assert found[0].excess >= 1
    assert found[0].onset_us is not None
    assert windows[NOON - 1].start_us <= found[0].onset_us <= windows[NOON + 1].start_us


def test_the_unit_is_in_the_evidence(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = business
    found = pages(watch(tier, [DAMAGE["thousand times"][0](w) for w in windows[:2]]))
    assert found[0].evidence["ratio"] == pytest.approx(1000, rel=0.4)
    assert found[0].evidence["share"] == pytest.approx(0.25, abs=0.15)


def test_predictions_that_no_longer_follow_from_the_features_page(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = business

    def shuffled(window: Window) -> Window:
        order = np.random.default_rng(0).permutation(window.log.num_rows)
        log = window.log.set_column(window.log.column_names.index("p"), "p", window.log["p"].take(pa.array(order)))
        return Window(window.start_us, window.end_us, log)

    found = pages(watch(tier, [shuffled(w) for w in windows[NOON : NOON + 2]]))
    assert (found[0].subject, found[0].symptom) == ("prediction", "residual-moved")
    assert found[0].bug_class in ("feature-order", "wrong-model-version")
    # The mix of p is as ever: only its relation to the features is broken.
    assert {f.subject for f in found} == {"prediction"}


def scored_by(model: str, window: Window) -> Window:
    log = window.log.append_column("model", pa.array([model] * window.log.num_rows))
    return Window(window.start_us, window.end_us, log)


@pytest.fixture(scope="module")
def of_a_model() -> tuple[DistributionTier, list[Window]]:
    """A tier that knows four days of the model m1, and the hours of the day after."""
    source, tier = Business(6, 6000), DistributionTier(COLUMNS)
    follow(tier, (scored_by("m1", window) for window in source.windows(0, 4)))
    return tier, list(source.windows(4, 5))


@pytest.mark.parametrize(("model", "again", "quiet"), [("m1", "p", True), ("m1", "other", False), ("m2", "p", False)])
def test_a_residual_is_refuted_where_a_known_model_gives_what_was_logged(
    of_a_model: tuple[DistributionTier, list[Window]], model: str, again: str, quiet: bool
) -> None:
    tier = copy.deepcopy(of_a_model[0])
    found: list[Finding] = []
    for window in of_a_model[1][NOON : NOON + 2]:
        hour = scored_by(model, window)
        p = np.random.default_rng(0).permutation(hour.log["p"].to_numpy())
        log = hour.log.set_column(hour.log.column_names.index("p"), "p", pa.array(p))
        given = pa.table({"id": log["id"], "p": p if again == "p" else np.random.default_rng(1).permutation(p)})
        found += tier.test(replace(hour, log=log, rescored=given))
        tier.learn()
    assert quiet == (not [f for f in found if f.symptom == "residual-moved"])


def test_an_hour_that_is_healed_is_quiet_at_once(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = copy.deepcopy(business[0]), business[1]
    damage = DAMAGE["nulls"][0]
    assert pages(tier.test(damage(windows[0])))  # an incident opens: the hour is not learned
    assert pages(tier.test(damage(windows[1])))
    after = [f for window in windows[2:5] for f in (tier.test(window), tier.learn())[0]]
    assert [str(f) for f in pages(after)] == []


def test_a_test_learns_nothing_and_can_be_repeated(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = copy.deepcopy(business[0]), business[1]
    damage = DAMAGE["rounded"][0]
    once = tier.test(damage(windows[0]))
    again = tier.test(damage(windows[0]))
    assert [f.as_json() for f in once] == [f.as_json() for f in again]


def test_a_longer_window_is_judged_in_one_piece(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = copy.deepcopy(business[0]), business[1]
    day = pa.concat_tables([w.log for w in windows[:24]])
    whole = Window(windows[0].start_us, windows[0].start_us + DAY_US, day)
    assert pages(tier.test(whole)) == []
    found = pages(tier.test(changed("f_x3", lambda v: np.full_like(v, np.nan), 0.05)(whole)))
    assert (found[0].subject, found[0].symptom, found[0].evidence["hours"]) == ("x3", "nulls-up", 24)


def test_without_history_it_says_so_and_with_little_it_sees_what_needs_none() -> None:
    source, tier = Business(8, 600), DistributionTier(COLUMNS)
    windows = list(source.windows(0, 4))
    first = windows[0]
    assert tier.test(first) == []
    assert "days of reference" in tier.unable()["distribution"]
    assert tier.ran() == ()
    for window in [w for w in windows if w.start_us < START_US + 3 * DAY_US]:
        tier.test(window)
        tier.learn()
    last = [w for w in windows if w.start_us >= START_US + 3 * DAY_US]
    assert pages(watch(tier, last)) == []
    assert tier.test(last[0]) is not None
    assert "distribution" in tier.ran()
    for name in ("nulls", "constant p", "new value"):
        damage, subject, symptom, _ = DAMAGE[name]
        found = pages(watch(tier, [damage(w) for w in last[NOON : NOON + 6]]))
        assert found, name
        assert (found[0].subject, found[0].symptom) == (subject, symptom)


def test_twenty_rows_an_hour_do_not_page_and_an_empty_hour_is_not_judged() -> None:
    source, tier = Business(3, 480), DistributionTier(COLUMNS)
    found = []
    for window in source.windows(0, 9):
        judged = tier.test(window)
        found += judged if window.start_us >= START_US + 6 * DAY_US else []
        tier.learn()
    assert [str(f) for f in pages(found)] == []
    empty = Window(window.end_us, window.end_us + HOUR_US, window.log.slice(0, 0))
    assert tier.test(empty) == []
    assert tier.unable() == {"distribution": "no rows in the window"}


def test_a_log_with_nothing_but_the_three_columns_is_watched() -> None:
    tier = DistributionTier(LogColumns((), ()))
    windows = [Window(w.start_us, w.end_us, w.log.select(["id", "time", "p"])) for w in Business(2, 1500).windows(0, 5)]
    for window in windows[:-12]:
        tier.test(window)
        tier.learn()
    assert pages(watch(tier, windows[-12:])) == []
    half = Window(
        windows[-1].start_us, windows[-1].end_us,
        windows[-1].log.set_column(2, "p", pc.multiply(windows[-1].log["p"], 0.05)),
    )  # fmt: skip
    assert [f.subject for f in pages(tier.test(half))] == ["prediction"]


def test_an_incident_open_for_months_leaves_the_tier_judging(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = copy.deepcopy(business[0]), business[1]
    for window in windows[:24]:
        tier.test(window)
        tier.learn()
    later = list(Business(5, ROWS).windows(REFERENCE + 60, REFERENCE + 61))
    for window in later[:2]:
        tier.test(window)  # nothing was learned for two months
        assert "distribution" in tier.ran()


def test_columns_that_are_gone_are_all_null(business: tuple[DistributionTier, list[Window]]) -> None:
    tier, windows = business
    noon = windows[NOON]
    without = Window(noon.start_us, noon.end_us, noon.log.drop_columns(["f_x0", "f_c1", "f_c3"]))
    found = {finding.subject: finding.symptom for finding in pages(copy.deepcopy(tier).test(without))}
    assert {name: found[name] for name in ("x0", "c1", "c3")} == dict.fromkeys(("x0", "c1", "c3"), "nulls-up")


def won_by_one_ad(window: Window, share: float) -> Window:
    """Two hundred ads, and one more that takes a share of the rows: its price and its category are what they are."""
    log = window.log
    item = 1 + (uniform(log["id"].to_numpy(), 11) * 200).astype(np.int64)
    hit = uniform(log["id"].to_numpy(), 13) < share
    log = log.set_column(log.column_names.index("item"), "item", pa.array(np.where(hit, 777, item)))
    log = log.drop_columns(["f_c3"])  # of the items as they were
    for name, value in (("f_x0", 3.3), ("f_x2", -2.5)):
        values = np.where(hit, np.float32(value), log[name].to_numpy())
        log = log.set_column(log.column_names.index(name), name, pa.array(values.astype(np.float32)))
    return Window(window.start_us, window.end_us, log)


def test_one_ad_that_wins_a_third_of_the_rows_is_no_fault_of_a_column() -> None:
    source, tier = Business(5, 9000), DistributionTier(COLUMNS)
    for window in source.windows(0, 7):
        tier.test(won_by_one_ad(window, 0.0))
        tier.learn()
    windows = [window for window in source.windows(7, 8) if window.log.num_rows > 80]
    assert pages(watch(tier, [won_by_one_ad(window, 0.3) for window in windows])) == []
    # The same values, of all ads.
    spoilt = [changed("f_x0", lambda v: np.full_like(v, 3.3), 0.3)(won_by_one_ad(window, 0.0)) for window in windows[:12]]
    assert "x0" in {finding.subject for finding in pages(watch(tier, spoilt))}


def test_after_a_week_without_learning_not_everybody_is_new(business: tuple[DistributionTier, list[Window]]) -> None:
    tier = copy.deepcopy(business[0])
    source, found = Business(5, ROWS), []
    windows = [w for w in source.windows(0, REFERENCE + 9) if w.start_us >= START_US + REFERENCE * DAY_US]
    for window in windows[: 8 * 24]:
        tier.test(window)  # an incident is open
    for window in windows[8 * 24 :]:
        found += tier.test(window)
        tier.learn()
    assert [str(f) for f in pages(found)] == []

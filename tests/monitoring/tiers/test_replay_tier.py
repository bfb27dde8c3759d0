"""The replay tier names the feature, the way it went wrong and since when; a clean log with honest noise is silent."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from infra.clock import DAY_US, HOUR_US
from monitoring.findings import Finding
from monitoring.tiers.replay import ReplayTier
from monitoring.window import LogColumns, Window

START_US = 20_480 * DAY_US
COLUMNS = LogColumns(("device",), ("price", "gap", "ctr"))
SAMPLE = 150
Change = Callable[[Window, np.random.Generator], Window]


def hour(number: int, seed: int = 0) -> Window:
    """A clean hour of a log with text ids; gap is price minus something."""
    rng = np.random.default_rng((seed, number))
    n = SAMPLE
    price = np.float32(rng.lognormal(2, 1, n)).astype(np.float64)
    ctr = np.float32(rng.beta(2, 40, n)).astype(np.float64)
    device = np.array(["mobile", "tv", "desktop"])[rng.integers(0, 3, n)]
    p = 1 / (1 + np.exp(-(-4 + 0.8 * np.log(price) + 10 * ctr + 0.3 * (device == "tv"))))
    ids = [f"r{number}-{i}" for i in range(n)]
    features = {"f_device": device, "f_price": price, "f_gap": price - 7.5, "f_ctr": ctr}
    start = START_US + number * HOUR_US
    log = pa.table(
        {"id": ids, "time": start + np.arange(n), "p": p, "model": ["m1"] * n, "user": rng.integers(0, 60, n), **features}
    )
    return Window(start, start + HOUR_US, log, offline=pa.table({"id": ids[::-1], **{k: v[::-1] for k, v in features.items()}}),
                  rescored=pa.table({"id": ids, "p": p}))  # fmt: skip


def put(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def logged(name: str, change: Callable[[np.ndarray], np.ndarray], share: float) -> Change:
    """Feature `name` logged otherwise in a share of rows; gap follows price."""

    def apply(window: Window, rng: np.random.Generator) -> Window:
        log = window.log
        values = np.array(log[f"f_{name}"].to_pylist())
        values = np.where(rng.random(SAMPLE) < share, change(values), values)
        log = put(log, f"f_{name}", values)
        if name == "price":
            log = put(log, "f_gap", values - 7.5)
        return dataclasses.replace(window, log=log)

    return apply


def scored(change: Callable[[Window], np.ndarray], share: float = 1.0) -> Change:
    """The logged p otherwise in a share of rows."""

    def apply(window: Window, rng: np.random.Generator) -> Window:
        p = window.log["p"].to_numpy()
        p = np.where(rng.random(SAMPLE) < share, change(window), p)
        return dataclasses.replace(window, log=put(window.log, "p", p))

    return apply


@pytest.fixture(scope="module")
def warm() -> ReplayTier:
    tier = ReplayTier(COLUMNS)
    for number in range(4 * 24):
        assert tier.test(hour(number)) == []
        tier.learn()
    return tier


def pages(warm: ReplayTier, change: Change, hours: int) -> Iterator[tuple[int, Finding]]:
    import copy

    tier, rng = copy.deepcopy(warm), np.random.default_rng(3)
    for number in range(hours):
        for finding in tier.test(change(hour(4 * 24 + number), rng)):
            if finding.severity == "page":
                yield number, finding
        tier.learn()


@pytest.mark.parametrize(
    ("name", "change", "symptom", "bug_class"),
    [
        ("price", lambda v: v * 100, "ratio", "unit-change"),
        ("price", lambda v: v * np.nan, "to-null", "null-spike"),
        ("ctr", lambda v: v * 0, "to-default", "default-value-skew"),
        ("ctr", lambda v: np.round(v, 2), "rounded", "cast-or-rounding"),
        (
            "device",
            lambda v: np.where(v == "tv", "mobile", np.where(v == "mobile", "tv", v)),
            "permuted",
            "category-reencoding",
        ),
    ],
)
@pytest.mark.parametrize(("share", "within"), [(0.5, 1), (0.06, 3)])
def test_a_feature_that_is_logged_otherwise_is_named(
    warm: ReplayTier, name: str, change: Callable, symptom: str, bug_class: str, share: float, within: int
) -> None:  # fmt: skip
    _, found = next(pages(warm, logged(name, change, share), within))
    assert (found.subject, found.symptom, found.bug_class, found.tier) == (name, symptom, bug_class, "replay")
    assert found.onset_us == START_US + 4 * 24 * HOUR_US
    assert found.excess >= 1


def test_what_follows_a_wrong_feature_is_a_notice(warm: ReplayTier) -> None:
    import copy

    found = copy.deepcopy(warm).test(logged("price", lambda v: v * 100, 0.5)(hour(4 * 24), np.random.default_rng(1)))
    assert [(f.subject, f.severity) for f in found] == [("price", "page"), ("gap", "notice")]
    assert found[1].evidence["follows"] == "price"


def test_half_a_percent_is_found_within_days(warm: ReplayTier) -> None:
    _, found = next(pages(warm, logged("price", lambda v: v * 100, 0.005), 72))
    assert (found.subject, found.symptom) == ("price", "ratio")


@pytest.mark.parametrize(
    ("change", "symptom", "bug_class"),
    [
        (lambda w: np.full(SAMPLE, 0.04), "rescore-constant", "constant-fallback"),
        (lambda w: (lambda p: p / (p + (1 - p) * 0.1))(w.log["p"].to_numpy()), "rescore-offset", "uncorrected-downsampling"),
        (lambda w: np.round(w.log["p"].to_numpy() * 64) / 64, "rescore-rounded", "quantisation"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_prediction_that_the_model_does_not_give_is_named(
    warm: ReplayTier, change: Callable, symptom: str, bug_class: str, share: float
) -> None:
    _, found = next(pages(warm, scored(change, share), 3))
    assert (found.subject, found.symptom, found.bug_class) == ("prediction", symptom, bug_class)
    assert found.evidence["features_replay"] == "pass"


def test_swapped_columns_are_told_from_another_model(warm: ReplayTier) -> None:
    def swapped(window: Window) -> np.ndarray:
        price, ctr = (window.log[f"f_{name}"].to_numpy() for name in ("price", "ctr"))
        return 1 / (1 + np.exp(-(-1 + 0.8 * np.log(ctr) + 10 * np.minimum(price, 20) / 100)))

    def other(window: Window) -> np.ndarray:
        noise = np.random.default_rng(int(window.start_us // HOUR_US)).normal(0, 0.3, SAMPLE)
        return 1 / (1 + np.exp(-(np.log(window.log["p"].to_numpy()) + noise)))

    found = [next(pages(warm, scored(change), 1))[1] for change in (swapped, other)]
    assert [f.bug_class for f in found] == ["feature-order", "wrong-model-version"]
    assert set(found[0].evidence["columns"]) == {"price", "ctr"}
    assert found[1].subject == "m1"


def test_honest_noise_is_learned(warm: ReplayTier) -> None:
    """Digits lost in every row of one column, 3% of another honestly recomputed otherwise: no page in six days."""

    def noisy(window: Window, rng: np.random.Generator) -> Window:
        offline = window.offline
        assert offline is not None
        offline = put(offline, "f_ctr", offline["f_ctr"].to_numpy() * (1 + 3e-5 * rng.standard_normal(SAMPLE)))
        price = offline["f_price"].to_numpy()
        offline = put(offline, "f_price", np.where(rng.random(SAMPLE) < 0.03, price * 1.1, price))
        return dataclasses.replace(window, offline=offline)

    tier, rng = ReplayTier(COLUMNS), np.random.default_rng(9)
    for number in range(9 * 24):
        found = tier.test(noisy(hour(number), rng))
        tier.learn()
        assert number < 3 * 24 or found == []
    found = tier.test(logged("ctr", lambda v: v * 2, 0.2)(noisy(hour(9 * 24), rng), rng))
    assert [(f.subject, f.symptom) for f in found] == [("ctr", "ratio")]


def test_without_recomputation_it_says_what_it_cannot_judge() -> None:
    tier = ReplayTier(COLUMNS)
    window = dataclasses.replace(hour(0), offline=None, rescored=None)
    assert tier.test(window) == []
    assert set(tier.unable()) == {"feature-replay", "model-replay"}
    assert tier.ran() == ()

"""The calibration tier over made-up logs: quiet when nothing happens, and right about what happened."""

import dataclasses
import json
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from infra.clock import HOUR_US
from monitoring.findings import SYMPTOMS, Finding
from monitoring.tiers.calibration import CalibrationTier
from monitoring.window import LogColumns, Window

START = 20_000 * 24 * HOUR_US
COLUMNS = LogColumns(("device", "user_id"), (), ids=("user_id",))
ROWS, DAYS = 400, 5  # impressions an hour, days of reference


def rows(hour: int, seed: int, n: int) -> pa.Table:
    rng = np.random.default_rng([seed, hour])
    p = np.clip(np.exp(rng.normal(-2.2, 0.6, n)), 0.001, 0.8)
    user = rng.integers(0, 500, n)
    return pa.table({
        "id": np.arange(n) + hour * 100_000, "time": START + hour * HOUR_US + np.sort(rng.integers(0, HOUR_US, n)), "p": p,
        "user": user, "item": rng.integers(0, 40, n), "randomised": rng.random(n) < 0.1,
        "f_device": rng.choice(["mobile", "desktop", "tv"], n, p=[0.5, 0.4, 0.1]), "f_user_id": user,
    })  # fmt: skip


def clicked(table: pa.Table, rate: np.ndarray, hour: int, seed: int) -> pa.Table:
    """The rows that got a click, when it was made, and when it arrived."""
    rng = np.random.default_rng([seed, hour, 1])
    chosen = table.filter(pa.array(rng.random(len(rate)) < rate))
    late = np.where(rng.random(len(chosen)) < 0.7, rng.exponential(60, len(chosen)), rng.exponential(4 * 3600, len(chosen)))
    at = chosen["time"].to_numpy() + (late * 1e6).astype(np.int64)
    return chosen.append_column("clicked_at", pa.array(at)).append_column("arrived_at", pa.array(at + 2_000_000))


def windows(first: int, last: int, seed: int = 1, onset: int = 10**9, bug: str = "", n: int = ROWS) -> Iterator[Window]:
    """Hours [first, last) of a log with its clicks; days differ by 3%; the bug begins with hour `onset`."""
    waiting: list[pa.Table] = []
    for hour in range(max(0, first - 24), last):
        table = rows(hour, seed, n)
        rate = table["p"].to_numpy() * 1.1 * np.exp(np.random.default_rng([seed, hour // 24, 2]).normal(0, 0.03))
        broken = hour >= onset
        if broken and bug == "half":
            rate = rate * 0.5
        if broken and bug == "mobile":
            rate = rate * np.where(np.array(table["f_device"].to_pylist()) == "mobile", 0.4, 1.0)
        if broken and bug == "flat":
            rate = np.full(n, rate.mean())
        if broken and bug == "robots":
            robots = table["user"].to_numpy().copy()
            robots[:25] = np.arange(25) % 3
            table = table.set_column(table.column_names.index("user"), "user", pa.array(robots))
            rate[:25] = 1.0
        fresh = clicked(table, np.minimum(rate, 1.0), hour, seed)
        if broken and bug == "late":
            moved = pa.array(fresh["arrived_at"].to_numpy() + 3 * HOUR_US)
            fresh = fresh.set_column(fresh.column_names.index("arrived_at"), "arrived_at", moved)
        if broken and bug == "inflated":
            for name in ("log", "clicks"):
                inflated = pa.array(np.minimum((table if name == "log" else fresh)["p"].to_numpy() * 4, 0.95))
                if name == "log":
                    table = table.set_column(2, "p", inflated)
                else:
                    fresh = fresh.set_column(2, "p", inflated)
        pool = pa.concat_tables([*waiting, fresh])
        due = pool["arrived_at"].to_numpy() < START + (hour + 1) * HOUR_US
        waiting = [pool.filter(pa.array(~due))]
        if hour >= first:
            yield Window(START + hour * HOUR_US, START + (hour + 1) * HOUR_US, table, pool.filter(pa.array(due)))


@cache
def _ready() -> CalibrationTier:
    tier = CalibrationTier(COLUMNS)
    for window in windows(0, DAYS * 24):
        tier.test(window)
        tier.learn()
    return tier


def ready() -> CalibrationTier:
    import copy

    return copy.deepcopy(_ready())


def pages(tier: CalibrationTier, over: Iterator[Window]) -> list[list[Finding]]:
    """Pages by window; learns where nothing pages, as the monitor does."""
    found = []
    for window in over:
        found.append([finding for finding in tier.test(window) if finding.severity == "page"])
        if not found[-1]:
            tier.learn()
    return found


def test_ordinary_days_are_quiet() -> None:
    tier = ready()
    assert not any(pages(tier, windows(DAYS * 24, (DAYS + 4) * 24)))
    assert {"calibration", "click-delay", "click-concentration", "slice-calibration"} <= set(tier.ran())
    assert not tier.unable()


@pytest.mark.parametrize(
    ("bug", "symptom", "guess", "subject", "hours"),
    [
        ("half", "calibration-low", "prior-shift", "clicks", 6),
        ("mobile", "slice-calibration", "concept-drift", "device", 12),
        ("flat", "discrimination-down", "concept-drift", "prediction", 24),
        ("robots", "click-concentration", "bots", "user", 4),
        ("late", "young-clicks-missing", "late-events", "clicks", 6),
        ("inflated", "calibration-low", "uncorrected-downsampling", "prediction", 4),
    ],
)
def test_what_happened_is_named(bug: str, symptom: str, guess: str, subject: str, hours: int) -> None:
    onset = DAYS * 24 + 7
    found = pages(ready(), windows(DAYS * 24, onset + hours, onset=onset, bug=bug))
    assert not any(found[:7])
    named = [finding for window in found for finding in window if finding.symptom == symptom]
    assert named
    assert (named[-1].bug_class, named[-1].subject) == (guess, subject)
    assert all(finding.symptom in SYMPTOMS["calibration"] and finding.excess >= 1 for window in found for finding in window)
    assert abs((named[-1].onset_us or 0) - START - onset * HOUR_US) <= 3 * HOUR_US
    json.dumps([finding.as_json() for finding in named])


def test_half_of_all_clicks_is_no_slice() -> None:
    onset = DAYS * 24
    found = pages(ready(), windows(onset, onset + 8, onset=onset, bug="half"))
    assert {finding.symptom for window in found for finding in window} == {"calibration-low"}
    assert {finding.evidence["ratio"] < 0.75 for window in found for finding in window} == {True}


def test_what_is_healed_falls_silent() -> None:
    tier, onset = ready(), DAYS * 24
    sick = pages(tier, windows(onset, onset + 30, onset=onset, bug="half"))
    assert all(sick[8:])
    well = pages(tier, windows(onset + 30, onset + 54))
    assert not any(well[6:])


def test_a_new_normal_is_learned_within_days() -> None:
    tier, onset, paged = ready(), DAYS * 24, []
    for hour, window in enumerate(windows(onset, onset + 96, onset=onset, bug="half")):
        paged += [hour for finding in tier.test(window) if finding.severity == "page" and finding.subject == "clicks"]
        tier.learn()
    assert paged
    assert max(paged) < 24


def labelled(window: Window, seed: int) -> Window:
    """The same hour as an outside log has it: labels in a column."""
    p = window.log["p"].to_numpy()
    label = np.random.default_rng([seed, window.start_us % 1_000_003]).random(len(p)) < p
    log = window.log.select(["id", "time", "p", "f_device"]).append_column("label", pa.array(label.astype(np.int8)))
    return dataclasses.replace(window, log=log, clicks=None)


def test_a_log_with_labels_will_do() -> None:
    tier = CalibrationTier(COLUMNS)
    assert not tier.test(labelled(next(windows(0, 1)), 3))
    assert "calibration" in tier.unable()
    tier.learn()
    for window in windows(1, 72):
        tier.test(labelled(window, 3))
        tier.learn()
    assert not any(pages(tier, (labelled(w, 3) for w in windows(72, 84))))
    assert "click-delay" in tier.unable()
    assert "click-concentration" in tier.unable()
    whole = [labelled(window, 3) for window in windows(84, 96)]
    log = pa.concat_tables([window.log for window in whole])
    halved = np.where(np.arange(len(log)) % 2 == 0, log["label"].to_numpy(), 0).astype(np.int8)
    log = log.set_column(log.column_names.index("label"), "label", pa.array(halved))
    found = tier.test(Window(whole[0].start_us, whole[-1].end_us, log))
    assert [finding.symptom for finding in found if finding.severity == "page"] == ["calibration-low"]


def test_without_clicks_and_labels_it_says_so() -> None:
    tier = CalibrationTier(COLUMNS)
    assert not tier.test(dataclasses.replace(next(windows(0, 1)), clicks=None))
    tier.learn()
    assert tier.unable() == {"calibration": "no clicks and no labels"}


def test_an_empty_hour_is_no_news() -> None:
    tier = ready()
    hour = next(windows(DAYS * 24, DAYS * 24 + 1))
    assert hour.clicks is not None
    old = hour.clicks.filter(pc.less(hour.clicks["time"], hour.start_us))
    assert not tier.test(dataclasses.replace(hour, log=hour.log.slice(0, 0), clicks=old))
    tier.learn()

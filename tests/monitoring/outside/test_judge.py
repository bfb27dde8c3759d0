"""One verdict on a window: clean days open nothing, a broken column is named, what can't be checked is said."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from infra.clock import DAY_US
from infra.errors import ExplainedError
from monitoring.classes import CLASSES
from monitoring.outside.judge import Learned, Verdict, judge
from monitoring.outside.mapping import LogMapping, read_mapping
from monitoring.outside.reading import Log

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "outside-log"
DAYS, ROWS = 5, 2500
MIDNIGHT = int(np.datetime64("2026-03-07", "us").astype(np.int64))  # the sixth day


@pytest.fixture(scope="module")
def shop() -> Any:
    """The tutorial's generator, as a module."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import make_log

        return make_log
    finally:
        sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def mapping() -> LogMapping:
    return read_mapping(EXAMPLE / "mapping.yaml")


def day(shop: Any, number: int) -> pd.DataFrame:
    log, _ = shop.Shop(3).day(number, ROWS)
    log["p_click"] = shop.predict(log)
    return log


def as_log(frame: pd.DataFrame, mapping: LogMapping) -> Log:
    """What reading the frame's file would give."""
    time = pd.to_datetime(frame["shown_at"]).to_numpy().astype("datetime64[us]").astype(np.int64)
    columns = {
        "id": pa.array(frame["view_id"]), "time": time, "p": frame["p_click"], "label": frame["clicked"].astype("int8"),
        "model": pa.array(frame["model"]), "arm": pa.array(frame["variant"]), "user": frame["visitor"],
        "item": frame["article"],
    }  # fmt: skip
    columns |= {f"f_{name}": pa.array(frame[name], from_pandas=True) for name in mapping.features}
    columns |= {f"f_{name}": pa.array(frame[name].astype(float), from_pandas=True) for name in mapping.numeric}
    return Log(pa.table(columns).sort_by("time"), [], Counter())


@pytest.fixture(scope="module")
def reference(shop: Any, mapping: LogMapping) -> Log:
    return as_log(pd.concat([day(shop, number) for number in range(DAYS)]), mapping)


@pytest.fixture(scope="module")
def verdict_on(shop: Any, mapping: LogMapping, reference: Log) -> Any:
    """Judges a day of the shop after something was done to it."""
    learned = Learned(reference, mapping)

    def run(change: Any = None, offline: bool = False, number: int = DAYS) -> Verdict:
        clean = day(shop, number)
        again = None
        if offline:
            again = as_log(clean, mapping)
            again.table = again.table.select(["id", *(f"f_{name}" for name in mapping.features)])
        return learned.judge(as_log(clean if change is None else change(clean.copy()), mapping), again)

    return run


def named(verdict: Verdict) -> tuple[str, str]:
    first = verdict.as_json()["incidents"][0]
    return first["class"], first["subject"]


def test_a_clean_day_opens_nothing_and_says_what_was_not_checked(verdict_on: Any) -> None:
    verdict = verdict_on()
    assert verdict.incidents == []
    assert "distribution" in verdict.checked
    assert "calibration" in verdict.checked
    assert "feature-replay" in verdict.skipped
    assert set(verdict.checked).isdisjoint(verdict.skipped)


def cents(log: pd.DataFrame) -> pd.DataFrame:
    log.loc[log.index % 3 == 0, "price"] *= 100
    return log


def nulls(log: pd.DataFrame) -> pd.DataFrame:
    log.loc[log.index % 4 == 0, "depth"] = np.nan
    return log


def constant(log: pd.DataFrame) -> pd.DataFrame:
    log.loc[log.index % 4 == 0, "p_click"] = 0.05
    return log


def twice(log: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([log, log[log.index % 5 == 0]]).sort_values("shown_at")


def afternoon(log: pd.DataFrame) -> pd.DataFrame:
    return log[~log["hour"].between(13, 17)]


@pytest.mark.parametrize(
    ("change", "slug", "subject"),
    [
        (cents, "unit-change", "price"), (nulls, "null-spike", "depth"), (constant, "constant-fallback", "prediction"),
        (twice, "duplicated-events", "impressions"), (afternoon, "partial-partition", "impressions"),
    ],
)  # fmt: skip
def test_a_strong_bug_is_one_incident_with_its_name_and_column(verdict_on: Any, change: Any, slug: str, subject: str) -> None:
    verdict = verdict_on(change)
    assert named(verdict) == (slug, subject)
    assert len(verdict.incidents) == 1
    assert all(MIDNIGHT <= finding.onset_us < MIDNIGHT + DAY_US for finding in verdict.incidents[0].findings)
    assert {h.bug_class for h in verdict.incidents[0].hypotheses} <= {known.slug for known in CLASSES}


def test_a_recomputation_shows_a_percent_of_the_rows(verdict_on: Any) -> None:
    def rounded(log: pd.DataFrame) -> pd.DataFrame:
        log.loc[log.index % 50 == 0, "visitor_ctr"] = log["visitor_ctr"].round(2)
        return log

    verdict = verdict_on(rounded, offline=True)
    assert named(verdict) == ("cast-or-rounding", "visitor_ctr")
    assert "feature-replay" in verdict.checked
    assert verdict_on(None, offline=True).incidents == []


def test_a_window_inside_its_reference_is_refused(reference: Log, mapping: LogMapping, shop: Any) -> None:
    with pytest.raises(ExplainedError, match="lies in the reference"):
        judge(reference, as_log(day(shop, 2), mapping), None, mapping)

"""Snapshot files: shapes, atomic replacement, content versions."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features import snapshots
from features.catalogue import VIEWS, view
from features.schemas import CATEGORIES
from infra.home import Home, ReadOnlyHome


def rows(clicks: float = 1.0, n: int = 2) -> pa.Table:
    matrix = np.arange(n * CATEGORIES, dtype=np.float32).reshape(n, CATEGORIES)
    numbers = np.full(n, clicks, np.float32)
    values = {f.name: matrix if f.kind == "floats" else numbers for f in view("user_daily").features}
    at = np.full(n, 1_000_000)
    return snapshots.table(view("user_daily"), np.arange(n), at, at + 5, np.full(n, 20260101), values)


MARK = pa.table({"snapshot": [20260101], "event_timestamp": [1_000_000], "available_at": [1_000_005]}).cast(snapshots.MANIFEST)


@pytest.mark.parametrize("one", VIEWS, ids=lambda v: v.name)
def test_a_views_file_has_its_key_its_stamps_and_its_features(one):
    names = snapshots.schema(one).names
    assert names == [snapshots.KEYS[one.entity], *snapshots.STAMPS, *(f.name for f in one.features)]


def test_what_was_written_is_read_and_counts_as_complete(tmp_path: Path):
    home = Home(tmp_path)
    snapshots.write(home, view("user_daily"), "2026-01-01", rows(), MARK)
    assert snapshots.days(home, "user_daily") == ["2026-01-01"]
    back = snapshots.read(home, "user_daily", "2026-01-01")
    assert back.equals(rows())
    np.testing.assert_array_equal(snapshots.matrix(back["user_category_clicks"], CATEGORIES), np.arange(48.0).reshape(2, 24))
    assert snapshots.manifest(home, "user_daily")["day"].to_pylist() == ["2026-01-01"]


def test_the_version_follows_the_content_only(tmp_path: Path):
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    for home in (one, two):
        snapshots.write(home, view("user_daily"), "2026-01-01", rows(), MARK)
    assert snapshots.version(one, "user_daily") == snapshots.version(two, "user_daily")
    snapshots.write(two, view("user_daily"), "2026-01-01", rows(clicks=2.0), MARK)
    assert snapshots.version(one, "user_daily") != snapshots.version(two, "user_daily")


def test_an_interrupted_write_leaves_the_old_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home(tmp_path)
    snapshots.write(home, view("user_daily"), "2026-01-01", rows(), MARK)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        snapshots.write(home, view("user_daily"), "2026-01-01", rows(clicks=9.0), MARK)
    assert snapshots.read(home, "user_daily", "2026-01-01").equals(rows())


def test_a_file_is_replaced_not_changed_so_that_hard_links_keep_the_old_content(tmp_path: Path):
    home = Home(tmp_path)
    snapshots.write(home, view("user_daily"), "2026-01-01", rows(), MARK)
    link = tmp_path / "link.parquet"
    os.link(snapshots.day_path(home, "user_daily", "2026-01-01"), link)
    before = link.read_bytes()
    snapshots.write(home, view("user_daily"), "2026-01-01", rows(clicks=9.0), MARK)
    assert link.read_bytes() == before


def test_rows_of_another_shape_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the catalogue says"):
        snapshots.write(Home(tmp_path), view("user_daily"), "2026-01-01", rows().drop(["user_ctr"]), MARK)


def test_a_read_only_home_is_not_written(tmp_path: Path):
    with pytest.raises(ReadOnlyHome):
        snapshots.write(Home(tmp_path, writable=False), view("user_daily"), "2026-01-01", rows(), MARK)


def test_a_day_that_is_not_there_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="clickproof materialize"):
        snapshots.read(Home(tmp_path), "user_daily", "2026-01-01")

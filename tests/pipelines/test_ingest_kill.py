"""Ingestion killed at any moment: every table stays whole, and the next run ends where an uninterrupted one does."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from landed_log import SPEC, land_days

import infra.lake
from infra.home import Home
from infra.lake import Lake
from pipelines.ingest import ingest_all

DAYS = 2
COMMITS = DAYS * 6 + 2  # five event tables and the record of what is done; once each the empty quarantine and waiting list


def land_small(home: Home) -> None:
    land_days(home, DAYS, requests=20)


def die_at(root: Path, commit: int, before: bool) -> None:
    """Ingest, and kill this process just before or just after its commit number `commit`."""
    real, commits = infra.lake.write_deltalake, iter(range(10**6))

    def deadly(*args: Any, **kwargs: Any) -> None:
        mine = next(commits) == commit
        if mine and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    infra.lake.write_deltalake = deadly
    ingest_all(Home(root), SPEC, progress=False)


def run(root: Path) -> None:
    ingest_all(Home(root), SPEC, progress=False)


def content(home: Home) -> dict[str, pa.Table]:
    lake = Lake.of(home)
    return {name: lake.read(name) for name in lake.tables()}


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.ingest", "landed_log"])
    return context


def test_killed_around_every_commit(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    whole = Home(tmp_path / "whole")
    land_small(whole)
    counts = ingest_all(whole, SPEC, progress=False)
    assert sum(version + 1 for version in Lake.of(whole).versions().values()) == COMMITS
    for commit in range(COMMITS):
        home = Home(tmp_path / str(commit))
        land_small(home)
        child = processes.Process(target=die_at, args=(home.root, commit, commit % 2 == 0))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        for name, table in content(home).items():  # a day is there wholly or not at all
            for day in set(table["day"].to_pylist()):
                assert Lake.of(home).read(name, days=[day]).equals(Lake.of(whole).read(name, days=[day]))
        assert ingest_all(home, SPEC, progress=False) == counts
        assert content(home) == content(whole)


def test_killed_at_random_moments_again_and_again(
    tmp_path: Path, processes: multiprocessing.context.ForkServerContext
) -> None:  # fmt: skip
    whole, home = Home(tmp_path / "whole"), Home(tmp_path / "killed")
    for each in (whole, home):
        land_days(each, 3, requests=2000)
    started = time.perf_counter()
    counts = ingest_all(whole, SPEC, progress=False)
    took = time.perf_counter() - started
    luck, killed = random.Random(5), 0
    for turn in range(8):  # the first soon: a machine that is less busy by now would be done too early for it
        child = processes.Process(target=run, args=(home.root,))
        child.start()
        child.join(luck.uniform(0, turn / 7) * took)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            killed += 1
        child.join()
    assert killed > 0
    assert ingest_all(home, SPEC, progress=False) == counts
    assert content(home) == content(whole)

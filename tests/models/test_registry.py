"""The registry on a real MLflow database: versions by hash, aliases, the audit, and branches that leave their base alone."""

import shutil
from pathlib import Path

import pytest
from synthetic import SPEC, clicks

from infra.home import Home, ReadOnlyHome
from models.registry import Registry, alias_hash, describe, flat
from models.train import train_family


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, str]:
    """A home with two recorded artefacts, the first of them champion."""
    home = Home(tmp_path_factory.mktemp("registry"))
    registry = Registry.of(home)
    hashes = []
    for seed in (1, 2):
        parts = [clicks(4000, 10 * seed + i).data for i in range(3)]
        artefact = train_family("base_rate", *parts, SPEC, seed).artefact
        name = artefact.save(home.artefacts)
        metrics = {"ne": {"value": 0.9, "low": 0.8, "high": None}, "method": "x"}
        version = registry.record(
            name, name="test", at_us=1, params={"seed": seed}, metrics=metrics, tags={"tables": {"clicks": 3}}
        )
        assert version.hash == name
        hashes.append(name)
    registry.decide(hashes[0], "promote to champion", True, ["passed: all"], at_us=2, alias="champion")
    return home, hashes[0], hashes[1]


def test_an_alias_names_the_artefact_it_was_given(recorded: tuple[Home, str, str]) -> None:
    home, first, _ = recorded
    assert alias_hash(home, "champion") == first
    assert alias_hash(home, "shadow") is None
    assert [version.tags["tables"] for version in Registry.of(home).versions()] == ['{"clicks": 3}'] * 2


def test_a_failed_decision_is_in_the_audit_and_moves_nothing(recorded: tuple[Home, str, str]) -> None:
    home, first, second = recorded
    registry = Registry.of(home)
    registry.decide(second, "promote to champion", False, ["failed: calibration"], at_us=3, alias="champion")
    assert alias_hash(home, "champion") == first
    last = registry.audit()[-1]
    assert (last.hash, last.passed, last.reasons, last.before) == (second, False, ("failed: calibration",), first)
    assert "failed: calibration" in describe(last)


def test_a_branch_moves_its_own_champion_and_writes_into_its_own_folder(
    recorded: tuple[Home, str, str], tmp_path: Path
) -> None:
    home, first, second = recorded
    branch = Home(tmp_path / "branch")
    shutil.copytree(home.root, branch.root)
    before = sorted(path for path in home.mlflow.rglob("*") if path.is_file())
    registry = Registry.of(branch)
    registry.record(second, name="on a branch", at_us=4, params={}, metrics={}, tags={})
    registry.decide(second, "promote to champion", True, [], at_us=5, alias="champion")
    assert alias_hash(branch) == second
    assert alias_hash(home) == first
    assert sorted(path for path in home.mlflow.rglob("*") if path.is_file()) == before


def test_an_alias_can_be_taken_away_with_a_reason(recorded: tuple[Home, str, str]) -> None:
    home, _, second = recorded
    registry = Registry.of(home)
    registry.decide(second, "shadow", True, [], at_us=6, alias="shadow")
    assert alias_hash(home, "shadow") == second
    registry.remove_alias("shadow", second, ["done"], at_us=7)
    assert alias_hash(home, "shadow") is None
    assert registry.audit()[-1].subject == "remove alias shadow"


def test_asking_an_empty_home_creates_nothing(tmp_path: Path) -> None:
    assert alias_hash(Home(tmp_path / "empty"), "champion") is None
    assert not (tmp_path / "empty").exists()


def test_a_read_only_home_is_not_written(recorded: tuple[Home, str, str]) -> None:
    home, first, _ = recorded
    closed = Registry.of(Home(home.root, writable=False))
    assert closed.alias_hash("champion") == first
    with pytest.raises(ReadOnlyHome):
        closed.decide(first, "promote", True, [], at_us=8, alias="champion")


def test_what_was_never_saved_or_recorded_is_refused(recorded: tuple[Home, str, str]) -> None:
    registry = Registry.of(recorded[0])
    with pytest.raises(FileNotFoundError, match=r"call Artefact\.save"):
        registry.record("0" * 16, name="x", at_us=1, params={}, metrics={}, tags={})
    with pytest.raises(KeyError, match="never recorded"):
        registry.decide("0" * 16, "promote", True, [], at_us=1)


def test_reports_are_flattened_by_name() -> None:
    report = {"n": 3, "ne": {"value": 0.5, "low": None}, "slices": {"slot": {"0": {"ne": {"value": 0.25}}}}, "method": "m"}
    assert flat(report) == {"n": 3.0, "ne": 0.5, "slices.slot.0.ne": 0.25}

"""`clickproof rollout`, as a person meets it: a model on its way to champion and back, and everything that is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_models
from as_a_user import clickproof

from infra.errors import ExplainedError
from infra.settings import Settings
from models.registry import CHAMPION, Registry, alias_hash
from pipelines import rollout_command as command
from serving.rollout import A_A
from serving.rollout_store import history, read


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, str]]:
    """Settings whose home has a model of every family; logistic is champion."""
    chosen = Settings(home=tmp_path_factory.mktemp("state"), size="tiny")
    return chosen, small_models.fill(chosen.base())


@pytest.fixture
def chosen(market: tuple[Settings, dict[str, str]], tmp_path: Path) -> Settings:
    """Of a copy to write to."""
    shutil.copytree(market[0].home, tmp_path / "state")
    return Settings(home=tmp_path / "state", size="tiny")


@pytest.fixture
def hashes(market: tuple[Settings, dict[str, str]]) -> dict[str, str]:
    return market[1]


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON that the last command ended with."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_model_goes_all_the_way_and_back(chosen: Settings, hashes: dict[str, str]) -> None:
    """Through the command line, as it is documented."""
    better, home = hashes["xgboost"], chosen.base()

    def rollout(*words: str, status: int = 0) -> str:
        done = clickproof("rollout", *words, "--size", "tiny", home=chosen.home, status=status)
        return done.stderr if status else done.stdout

    assert f"champion  {hashes['logistic']}  logistic, trained on" in rollout("show")
    assert "shadow" in rollout("shadow", better, "--why", "to see its scores")
    canary = json.loads(rollout("canary", better[:6], "--share", "0.1", "--why", "scores look well", "--who", "ada", "--json"))
    assert (canary["who"], canary["why"], canary["number"]) == ("ada", "scores look well", 3)
    assert (canary["from"]["shadows"], canary["to"]["shadows"]) == ([better], [])
    assert canary["to"]["canary"]["share"] == 0.1
    arms = ("--arm", "control=0.5", "--arm", f"treatment=0.5:{better}")
    assert "experiment base -> trees" in rollout("experiment", "trees", *arms, "--why", "nothing broke")
    assert f"champion {hashes['logistic']} -> {better}" in rollout("promote", better, "--why", "it won")
    assert (read(home).champion, read(home).experiment, alias_hash(home)) == (better, A_A, better)
    assert "there is no canary to promote" in rollout("promote", "--why", "again", status=2)
    assert f"champion {better} -> {hashes['logistic']}" in rollout("rollback", "--why", "clicks fell")
    assert (read(home).champion, alias_hash(home)) == (hashes["logistic"], hashes["logistic"])
    told = rollout("history")
    assert all(word in told for word in ("test: the first one", "ada: scores look well", "clicks fell (takes back 5)"))
    assert "Traceback" not in rollout("rollback", "--why", "further", status=2)


def test_the_share_can_be_raised_and_the_canary_ended(
    chosen: Settings, hashes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for share in (0.05, 0.2):
        command.canary(chosen, hashes["dcnv2"], share, False, "ada", "step by step", True)
    assert said(capsys)["to"]["canary"]["share"] == 0.2
    command.show(chosen, True)
    assert said(capsys)["plan"] == pytest.approx({"a": 0.4, "b": 0.4, "canary": 0.2})
    command.canary(chosen, None, 0.05, True, "ada", "enough", True)
    assert said(capsys)["to"]["canary"] is None


def test_shadows_come_and_go_also_when_their_files_are_gone(chosen: Settings, hashes: dict[str, str]) -> None:
    command.shadow(chosen, hashes["dcnv2"], "ada", "to see", False)
    shutil.rmtree(chosen.base().artefacts / hashes["dcnv2"])
    command.unshadow(chosen, hashes["dcnv2"][:5], "ada", "seen", False)
    assert read(chosen.base()).shadows == ()


def test_by_default_the_systems_user_decides(chosen: Settings, hashes: dict[str, str]) -> None:
    import getpass

    command.shadow(chosen, hashes["dcnv2"], None, "to see", False)
    assert history(chosen.base())[-1].who == getpass.getuser()


def test_a_damaged_model_gets_no_traffic_in_any_way(chosen: Settings, hashes: dict[str, str]) -> None:
    home, bad = chosen.base(), hashes["xgboost"]
    file = home.artefacts / bad / "trees.ubj"
    os.truncate(file, file.stat().st_size - 16)
    arms = ["control=1", f"treatment=1:{bad}"]
    for attempt in (
        lambda: command.shadow(chosen, bad, "ada", "x", False),
        lambda: command.canary(chosen, bad, 0.05, False, "ada", "x", False),
        lambda: command.experiment(chosen, "trees", arms, False, "ada", "x", False),
        lambda: command.promote(chosen, bad, "ada", "x", False),
    ):
        with pytest.raises(ExplainedError, match=rf"{bad} gets no traffic:.*trees\.ubj.*truncated"):
            attempt()
    assert len(history(home)) == 1


def test_a_damaged_champion_can_be_left_by_going_back(chosen: Settings, hashes: dict[str, str]) -> None:
    home = chosen.base()
    command.promote(chosen, hashes["xgboost"], "ada", "it won", False)
    (home.artefacts / hashes["xgboost"] / "trees.ubj").unlink()
    with pytest.raises(ExplainedError, match=r"champion is damaged.*rollout rollback"):
        command.canary(chosen, hashes["dcnv2"], 0.05, False, "ada", "x", False)
    command.rollback(chosen, "ada", "its file is gone", False)
    assert read(home).champion == hashes["logistic"]


@pytest.mark.parametrize(
    ("attempt", "word"),
    [
        (lambda c: command.canary(c, None, 0.05, False, "ada", "x", False), "either a HASH"),
        (lambda c: command.canary(c, "ab", 0.05, True, "ada", "x", False), "either a HASH"),
        (lambda c: command.canary(c, "zz", 0.05, False, "ada", "x", False), "no artefact begins with 'zz'"),
        (lambda c: command.canary(c, "", 0.05, False, "ada", "x", False), "several artefacts begin with ''"),
        (lambda c: command.experiment(c, "n", ["a=1"], False, "ada", "x", False), "two or more"),
        (lambda c: command.experiment(c, "n", ["a=1", "b"], False, "ada", "x", False), "NAME=WEIGHT"),
        (lambda c: command.experiment(c, None, [], False, "ada", "x", False), "either a NAME"),
        (lambda c: command.experiment(c, None, [], True, "ada", "x", False), "no experiment to end"),
        (lambda c: command.unshadow(c, "ab", "ada", "x", False), "is no shadow"),
        (lambda c: command.canary(c, None, 0.05, True, "ada", "x", False), "no canary to end"),
        (lambda c: command.rollback(c, "ada", "x", False), "no champion before"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(market: tuple[Settings, dict[str, str]], attempt: Any, word: str) -> None:
    before = read(market[0].base())
    with pytest.raises(ExplainedError, match=word):
        attempt(market[0])
    assert read(market[0].base()) == before


def test_a_second_canary_is_refused_before_anything_is_loaded(chosen: Settings, hashes: dict[str, str]) -> None:
    command.canary(chosen, hashes["dcnv2"], 0.05, False, "ada", "x", False)
    shutil.rmtree(chosen.base().artefacts / hashes["logistic"])  # the champion could not be loaded
    with pytest.raises(ExplainedError, match=r"is the canary and there is one at a time.*canary --end"):
        command.canary(chosen, hashes["xgboost"], 0.05, False, "ada", "x", False)


def test_show_tells_of_an_alias_that_was_moved_by_hand(
    chosen: Settings, hashes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Registry.of(chosen.base()).decide(hashes["dcnv2"], "by hand", True, [], at_us=1, alias=CHAMPION)
    assert command.show(chosen, False) == 1
    assert "WRONG" in capsys.readouterr().out
    command.realign(chosen, True)
    assert said(capsys) == {"before": hashes["dcnv2"], "champion": hashes["logistic"]}
    assert command.show(chosen, False) == 0
    told = capsys.readouterr().out
    assert "WRONG" not in told
    assert f"other     {hashes['dcnv2']}  dcnv2, trained on" in told


def test_an_empty_home_says_what_to_do(tmp_path: Path) -> None:
    assert "make train" in clickproof("rollout", "show", "--size", "tiny", home=tmp_path, status=2).stderr


def test_a_reason_is_asked_for(chosen: Settings) -> None:
    assert "--why" in clickproof("rollout", "rollback", "--size", "tiny", home=chosen.home, status=2).stderr

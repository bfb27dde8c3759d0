"""The rollout document on disk: one change at a time, in the audit log before it takes effect, and the alias behind it."""

import json
import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from models.artefact import Artefact
from models.baseline import BaseRate
from models.calibrate import Calibrator
from models.contract import FeatureSpec
from models.encode import Encoder
from models.position import PositionBias
from models.registry import CHAMPION, Registry, alias_hash
from serving import rollout_audit, rollout_store
from serving.champion import champion
from serving.rollout import (
    Rollout,
    RolloutError,
    Transition,
    add_shadow,
    drop_shadow,
    end_canary,
    promote,
    start_canary,
)
from serving.rollout_audit import Entry, to_take_back
from serving.rollout_store import change, crown, history, read, rollback, stamp


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[str]]:
    """A home with four recorded artefacts and no champion."""
    home = Home(tmp_path_factory.mktemp("recorded"))
    return home, [base_rate(home, level) for level in (-3.0, -2.9, -2.8, -2.7)]


def base_rate(home: Home, level: float) -> str:
    """A saved and recorded model that knows only how often people click."""
    model = BaseRate(Encoder.learn({"ad_id": np.arange(40) % 4}, FeatureSpec(("ad_id",), ())))
    model.level = level
    name = Artefact(model, PositionBias(np.zeros(4)), Calibrator()).save(home.artefacts)
    Registry.of(home).record(name, name="test", at_us=1, params={}, metrics={}, tags={})
    return name


@pytest.fixture
def home(recorded: tuple[Home, list[str]], tmp_path: Path) -> Home:
    """A copy of it to write to."""
    shutil.copytree(recorded[0].root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def hashes(recorded: tuple[Home, list[str]]) -> list[str]:
    return recorded[1]


@pytest.fixture
def served(home: Home, hashes: list[str]) -> Home:
    """With the first artefact as champion."""
    crown(home, "gates", "the only one", hashes[0])
    return home


def shadowed(artefact: str) -> Transition:
    return lambda now: add_shadow(now, artefact)


def promoted(artefact: str) -> Transition:
    return lambda now: promote(now, artefact)


# Reading


def test_without_a_champion_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExplainedError, match="make train"):
        read(Home(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()
    assert stamp(Home(tmp_path / "empty")) is None


def test_a_home_from_before_has_a_document_made_of_its_alias(home: Home, hashes: list[str]) -> None:
    Registry.of(home).decide(hashes[1], "promote", True, [], at_us=1, alias=CHAMPION)
    assert read(home) == Rollout(0, hashes[1])
    assert not home.rollout.exists()  # asking writes nothing
    entry = change(home, "ada", "to see what it says", shadowed(hashes[2]))
    assert (entry.number, entry.before) == (1, Rollout(0, hashes[1]))
    assert read(home) == Rollout(1, hashes[1], (hashes[2],))


def test_a_document_that_was_edited_wrongly_names_its_file_and_field(served: Home) -> None:
    file = rollout_store.document(served)
    file.write_text(file.read_text().replace('"number": 1', '"number": "one"'))
    with pytest.raises(RolloutError, match=r"rollout\.json: number.*audit\.jsonl"):
        read(served)


# Changing


def test_a_change_is_read_at_once_and_moves_the_stamp(served: Home, hashes: list[str]) -> None:
    before = stamp(served)
    assert before == stamp(served)
    entry = change(served, "ada", "to try it", lambda now: start_canary(now, hashes[1], 0.05, 9))
    assert stamp(served) != before
    assert read(served) == entry.after
    assert (entry.number, entry.who, entry.why) == (2, "ada", "to try it")


def test_the_audit_log_has_who_when_from_to_and_why(served: Home, hashes: list[str]) -> None:
    change(served, "ada", "to try it", shadowed(hashes[1]))
    line = json.loads(rollout_audit.path(served).read_text().splitlines()[-1])
    assert (line["who"], line["why"], line["number"]) == ("ada", "to try it", 2)
    assert line["at_us"] > 1_700_000_000_000_000
    assert (line["from"]["shadows"], line["to"]["shadows"]) == ([], [hashes[1]])
    assert [entry.who for entry in history(served)] == ["gates", "ada"]
    assert history(served)[0].before is None


@pytest.mark.parametrize(("who", "why", "asked"), [("", "because", "--who NAME"), ("ada", " ", "--why TEXT")])
def test_a_change_without_a_name_or_a_reason_is_refused(
    served: Home, hashes: list[str], who: str, why: str, asked: str
) -> None:
    before = rollout_audit.path(served).read_bytes()
    with pytest.raises(RolloutError, match=asked):
        change(served, who, why, shadowed(hashes[1]))
    assert (read(served).number, rollout_audit.path(served).read_bytes()) == (1, before)


def test_a_change_of_nothing_is_refused(served: Home) -> None:
    with pytest.raises(RolloutError, match="changes nothing"):
        change(served, "ada", "nothing", lambda now: now)


def test_a_read_only_home_is_not_written(served: Home, hashes: list[str]) -> None:
    closed = Home(served.root, writable=False)
    assert read(closed).champion == hashes[0]
    with pytest.raises(ReadOnlyHome):
        change(closed, "ada", "to try it", shadowed(hashes[1]))


def test_who_decided_on_an_older_document_is_told_who_came_first(served: Home, hashes: list[str]) -> None:
    change(served, "ada", "first", shadowed(hashes[1]), expected=1)
    for late in (
        lambda: change(served, "bob", "second", shadowed(hashes[2]), expected=1),
        lambda: rollback(served, "bob", "x", 1),
    ):
        with pytest.raises(RolloutError, match=r"decided on document 1, it is number 2 by now \(ada: first\).*rollout show"):
            late()
    assert read(served).shadows == (hashes[1],)


def test_of_two_who_change_at_once_one_is_refused(served: Home, hashes: list[str]) -> None:
    both = threading.Barrier(2)
    results: list[Any] = []

    def race(artefact: str) -> None:
        def transition(now: Rollout) -> Rollout:
            both.wait(PATIENCE_S)  # both have read the same document
            return add_shadow(now, artefact)

        try:
            results.append(change(served, artefact, "a race", transition))
        except RolloutError as error:
            results.append(error)

    threads = [threading.Thread(target=race, args=(artefact,)) for artefact in hashes[1:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if isinstance(result, Entry)]
    lost = [result for result in results if isinstance(result, RolloutError)]
    assert len(won) == len(lost) == 1
    assert "another change came first" in str(lost[0])
    assert read(served) == won[0].after
    assert len(rollout_audit.path(served).read_text().splitlines()) == 2


def test_many_who_try_again_lose_no_change(served: Home, hashes: list[str]) -> None:
    def insist(transition: Transition) -> None:
        for _ in range(10):
            done = False
            while not done:
                try:
                    change(served, "a thread", "once more", transition)
                    done = True
                except RolloutError:
                    continue

    def turn(artefact: str) -> Transition:
        return lambda now: drop_shadow(now, artefact) if artefact in now.shadows else add_shadow(now, artefact)

    threads = [threading.Thread(target=insist, args=(turn(artefact),)) for artefact in hashes[1:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = history(served)
    assert [entry.number for entry in entries] == list(range(1, 32))
    assert all(later.before == earlier.after for earlier, later in pairwise(entries))
    assert read(served) == entries[-1].after
    assert read(served).shadows == ()


def test_who_reads_while_others_change_meets_whole_documents(served: Home, hashes: list[str]) -> None:
    stop = threading.Event()
    met: list[Rollout] = []

    def look() -> None:
        while not stop.is_set():
            met.append(read(served))

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(20):
        change(served, "ada", "on" if turn % 2 == 0 else "off", _on(hashes[1]) if turn % 2 == 0 else end_canary)
    stop.set()
    reader.join()
    known = {entry.number: entry.after for entry in history(served)}
    assert len(met) > 20
    assert all(known[each.number] == each for each in met)


def _on(artefact: str) -> Transition:
    return lambda now: start_canary(now, artefact, 0.1, 1)


# Crashes


def test_a_change_that_was_written_down_and_never_took_effect_is_no_change(served: Home, hashes: list[str]) -> None:
    now = read(served)
    lost = Entry(2, 5, "ada", "the power failed", now, Rollout(2, now.champion, (hashes[1],)))
    rollout_audit.append(served, lost)  # as far as a process came that was killed then
    assert [entry.number for entry in history(served)] == [1]
    change(served, "bob", "after the power came back", shadowed(hashes[2]))
    assert [(entry.number, entry.who) for entry in history(served)] == [(1, "gates"), (2, "bob")]
    assert "the power failed" in rollout_audit.path(served).read_text()  # nothing is rewritten


def test_a_line_that_was_cut_short_costs_that_line_alone(
    served: Home, hashes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with rollout_audit.path(served).open("ab") as file:
        file.write(b'{"number": 2, "at_us"')
    change(served, "ada", "after it", shadowed(hashes[1]))
    assert [entry.who for entry in history(served)] == ["gates", "ada"]
    assert "a line is left out" in caplog.text


def test_what_a_killed_writer_left_beside_is_no_document(served: Home, hashes: list[str]) -> None:
    rollout_store.document(served).with_suffix(".new").write_text('{"number": 9')
    assert read(served).number == 1
    change(served, "ada", "over it", shadowed(hashes[1]))
    assert read(served).number == 2


# The alias


def test_the_alias_follows_every_change_of_champion(served: Home, hashes: list[str]) -> None:
    assert alias_hash(served) == hashes[0]
    change(served, "ada", "better", promoted(hashes[1]))
    assert alias_hash(served) == hashes[1] == champion(served).hash
    decision = Registry.of(served).audit()[-1]
    assert (decision.subject, decision.reasons, decision.before) == ("champion by rollout 2", ("ada: better",), hashes[0])
    rollback(served, "ada", "worse")
    assert alias_hash(served) == hashes[0] == champion(served).hash


def test_an_alias_that_was_moved_by_hand_is_told_and_can_be_healed(served: Home, hashes: list[str]) -> None:
    assert rollout_store.disagreement(served) is None
    Registry.of(served).decide(hashes[1], "by hand", True, [], at_us=1, alias=CHAMPION)
    assert read(served).champion == hashes[0]
    for look in (champion, rollout_store.agreed_champion):
        with pytest.raises(ExplainedError, match=f"{hashes[0]} is champion.*names {hashes[1]}.*rollout realign"):
            look(served)
    assert rollout_store.realign(served) == hashes[1]
    assert rollout_store.realign(served) is None
    assert champion(served).hash == hashes[0]


def test_a_change_over_an_alias_moved_by_hand_says_so(
    served: Home, hashes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    Registry.of(served).decide(hashes[1], "by hand", True, [], at_us=1, alias=CHAMPION)
    change(served, "ada", "the right one", promoted(hashes[2]))
    assert f"named {hashes[1]}, which no change says" in caplog.text
    assert rollout_store.agreed_champion(served) == hashes[2]


def test_what_the_registry_never_heard_of_can_be_canary_and_not_champion(served: Home, hashes: list[str]) -> None:
    stranger = "f" * 16
    change(served, "ada", "from elsewhere", lambda now: start_canary(now, stranger, 0.05, 1))
    with pytest.raises(ExplainedError, match=f"does not know artefact {stranger}"):
        change(served, "ada", "it does well", promote)
    assert read(served).champion == hashes[0]


def test_a_registry_that_fails_does_not_undo_what_took_effect(served: Home, hashes: list[str]) -> None:
    change(served, "ada", "better", promoted(hashes[1]))
    (served.mlflow / "mlflow.db").write_bytes(b"no database")
    with pytest.raises(ExplainedError, match=rf"change 3 took effect \({hashes[0]} is champion\).*rollout realign"):
        rollback(served, "ada", "worse")
    assert read(served).champion == hashes[0]


# Going back


def test_rollbacks_go_further_and_further_back(served: Home, hashes: list[str]) -> None:
    for artefact in hashes[1:4]:
        change(served, "ada", "better", promoted(artefact))
    change(served, "ada", "and a canary", lambda now: start_canary(now, hashes[0], 0.1, 1))
    assert [rollback(served, "ada", "worse").after for _ in range(2)] == [Rollout(6, hashes[2]), Rollout(7, hashes[1])]
    change(served, "ada", "another try", promoted(hashes[3]))
    assert [rollback(served, "ada", "worse").after.champion for _ in range(2)] == [hashes[1], hashes[0]]
    with pytest.raises(RolloutError, match=r"no champion before.*promote HASH"):
        rollback(served, "ada", "worse")


def test_a_champion_before_whose_files_are_damaged_is_not_gone_back_to(served: Home, hashes: list[str]) -> None:
    change(served, "ada", "better", promoted(hashes[1]))
    file = served.artefacts / hashes[0] / "base_rate.json"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ExplainedError, match=r"can't answer again.*base_rate\.json.*truncated.*promote HASH"):
        rollback(served, "ada", "worse")
    assert read(served).champion == hashes[1]


@given(st.lists(st.one_of(st.integers(0, 4), st.just("back"), st.just("canary")), max_size=30))
def test_the_champion_before_is_that_of_a_stack(steps: list[Any]) -> None:
    """Against the twin: promotions push, rollbacks pop, all else leaves the stack alone."""
    names = [f"{number:016x}" for number in range(5)]
    stack, entries = [names[0]], [Entry(1, 0, "x", "x", None, Rollout(1, names[0]))]

    def add(after: str, undoes: int | None = None) -> None:
        number = len(entries) + 1
        entries.append(Entry(number, 0, "x", "x", entries[-1].after, Rollout(number, after), undoes))

    for step in steps:
        last = to_take_back(entries)
        assert (None if last is None or last.before is None else last.before.champion) == (stack[-2] if stack[1:] else None)
        if step == "back":
            if last is not None:
                stack.pop()
                add(stack[-1], last.number)
        elif step == "canary":
            add(stack[-1])
        elif names[step] != stack[-1]:
            stack.append(names[step])
            add(names[step])


def test_the_gates_change_nothing_where_their_winner_is_champion(served: Home, hashes: list[str]) -> None:
    assert crown(served, "gates", "again", hashes[0]) is None
    assert crown(served, "gates", "better", hashes[1]) == history(served)[-1]

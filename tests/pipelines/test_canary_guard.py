"""A canary that the guard sends back: out of traffic, in the audit log, and an incident that somebody can read."""

import json
from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from monitoring.canary import Verdict, judge
from monitoring.canary.counts import nothing, of_requests
from monitoring.canary.guard import BUG_CLASS
from pipelines import canary_guard
from pipelines.canary_guard import bands_of, take_out
from pipelines.incident_store import IncidentStore
from pipelines.incidents_command import incidents_command
from serving.rollout import Canary, Rollout, encode
from serving.rollout_store import change, document, history, read

CHAMPION, CANARY, OTHER = "1" * 16, "2" * 16, "3" * 16
NOW_US = 1_767_571_200_000_000


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    """Settings of a home with a canary."""
    chosen = Settings(home=tmp_path, size="tiny")
    path = chosen.base().writing(document(chosen.base()))
    path.write_bytes(encode(Rollout(1, CHAMPION, canary=Canary(CANARY, 0.1, 5))))
    return chosen


def failing() -> Verdict:
    """Half of the canary's requests fail."""
    answered = np.full(500, 0.003)
    return judge(of_requests(answered, failed=500), of_requests(np.repeat(answered, 10)), elapsed_s=60.0)


def test_a_failing_canary_is_taken_out_with_an_incident(chosen: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    home = chosen.base()
    entry = take_out(home, CANARY, failing(), NOW_US)
    assert entry is not None
    assert read(home).canary is None
    assert (history(home)[-1].who, history(home)[-1].why) == ("guard", failing().why)
    assert failing().why.startswith("errors: 50.00% of 1000 requests")
    (incident,) = IncidentStore(home).all().values()
    assert (incident["class"], incident["subject"], incident["state"]) == (BUG_CLASS, CANARY, "new")
    assert incident["opened_us"] == incident["onset_us"] == NOW_US
    assert [finding["subject"] for finding in incident["evidence"]] == ["errors"]
    incidents_command(chosen, "show", 1, False)
    told = capsys.readouterr().out
    assert f"{BUG_CLASS} in {CANARY}" in told
    assert "50.00% of 1000 requests" in told
    assert "rollout shadow HASH" in told
    incidents_command(chosen, "ack", 1, True)
    assert json.loads(capsys.readouterr().out)["state"] == "acknowledged"


def test_its_incident_comes_behind_those_there_are(chosen: Settings) -> None:
    home = chosen.base()
    store = IncidentStore(home)
    store.record([{**canary_guard.incident(7, OTHER, failing(), NOW_US)}], NOW_US)
    take_out(home, CANARY, failing(), NOW_US)
    assert list(store.all()) == [7, 8]


def test_who_is_no_canary_any_more_is_left_alone(chosen: Settings) -> None:
    home = chosen.base()
    assert take_out(home, OTHER, failing(), NOW_US) is None
    take_out(home, CANARY, failing(), NOW_US)
    assert take_out(home, CANARY, failing(), NOW_US) is None
    assert len(IncidentStore(home).all()) == len(history(home)) == 1


def test_a_change_of_somebody_else_does_not_stop_it(chosen: Settings) -> None:
    home = chosen.base()
    change(home, "ada", "more of it", lambda now: Rollout(now.number, CHAMPION, (OTHER,), Canary(CANARY, 0.2, 5)))
    take_out(home, CANARY, failing(), NOW_US)
    assert (read(home).canary, read(home).shadows) == (None, (OTHER,))


def test_a_canary_that_may_go_on_is_not_taken_out(chosen: Settings) -> None:
    with pytest.raises(ValueError, match="continue"):
        take_out(chosen.base(), CANARY, judge(nothing(), nothing(), 1.0), NOW_US)


def test_the_graces_are_settings() -> None:
    bands = bands_of(Settings(canary_grace_s=7.0, canary_label_grace_s=70.0))
    assert (bands.grace_s, bands.label_grace_s) == (7.0, 70.0)
    assert judge(nothing(), nothing(), 8.0, bands).action == "roll back"
    assert judge(nothing(), nothing(), 6.0, bands).action == "continue"

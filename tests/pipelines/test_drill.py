"""Drills on a home that the main job left: bugs are caught and named, clean runs are silent, the base stays as it was."""

import json

import pytest
from as_a_user import MainJob

from infra import branch
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from pipelines import drill
from pipelines.plant import making


@pytest.fixture
def short_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four days to learn from instead of fourteen: enough for what replay shows, and a minute less."""
    monkeypatch.setattr(making, "REFERENCE_DAYS", 4)


def test_a_leak_is_caught_and_named_at_the_gate_and_the_base_is_left_alone(main_job: MainJob) -> None:
    before = branch.fingerprint(main_job.home)
    result = drill.run(main_job.home, "LEAK01", main_job.settings)
    assert result.as_expected
    assert result.found
    assert (result.bug_class, result.subject) == ("point-in-time-violation", "user_clicks_1h")
    assert result.expected == {"class": result.bug_class, "subject": result.subject}
    assert "row-rebuild" in result.caught_by
    assert set(result.caught_by) <= set(result.checks_run)
    assert result.incident is None
    assert result.base_untouched
    assert branch.fingerprint(main_job.home) == before
    assert not any(main_job.home.branches.glob("*"))
    assert json.loads(json.dumps(result.as_json()))["runbook"]


def test_a_bug_of_the_training_export_is_caught_at_the_gate(main_job: MainJob) -> None:
    result = drill.run(main_job.home, "exported-twice", main_job.settings)
    assert result.found
    assert result.bug_class == "split-duplicates"
    assert result.base_untouched


@pytest.mark.usefixtures("short_reference")
def test_a_live_bug_opens_an_incident_that_names_it(main_job: MainJob) -> None:
    before = branch.fingerprint(main_job.home)
    result = drill.run(main_job.home, "price-in-cents", main_job.settings)
    assert result.found, result.hypotheses
    assert result.bug_class == "unit-change" or result.subject in ("ad_log_price", "price_gap")
    assert result.incident is not None
    assert result.hours_to_detect is not None
    assert 0 < result.hours_to_detect <= 2
    assert result.caught_by
    assert branch.fingerprint(main_job.home) == before
    assert not any(main_job.home.branches.glob("*"))
    assert json.loads(json.dumps(result.as_json(), default=float))["hypotheses"]


@pytest.mark.usefixtures("short_reference")
@pytest.mark.parametrize("bug", ["LEAK01", "SKEW03"])
def test_the_same_checks_are_silent_without_the_bug(main_job: MainJob, bug: str) -> None:
    result = drill.run(main_job.home, bug, main_job.settings, clean=True)
    assert result.as_expected, result.findings
    assert not result.found
    assert all(finding["severity"] == "notice" for finding in result.findings)
    assert result.checks_run
    assert result.expected is None


def test_an_unknown_bug_or_intensity_is_refused_before_anything_is_made(main_job: MainJob) -> None:
    for name, intensity in (("GREMLIN", "strong"), ("LEAK01", "wild")):
        with pytest.raises(ExplainedError, match="there are"):
            drill.run(main_job.home, name, main_job.settings, intensity=intensity)
    assert not any(main_job.home.branches.glob("*"))


def test_a_finished_log_cannot_go_on(main_job: MainJob) -> None:
    elsewhere = main_job.settings.model_copy(update={"source": "open-bandit"})
    with pytest.raises(ExplainedError, match="finished log"):
        drill.run(main_job.home, "SKEW03", elsewhere)
    assert not any(main_job.home.branches.glob("*"))


def test_a_drill_cannot_write_to_the_base_that_it_opened(main_job: MainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Home] = []

    def watching(base: Home, name: str) -> Home:
        opened.append(base)
        return create(base, name)

    create = branch.create
    monkeypatch.setattr(branch, "create", watching)
    monkeypatch.setattr(drill, "DRILLS", {"gate": lambda *_: opened[0].writing(opened[0].reports / "rogue.html")})
    with pytest.raises(ReadOnlyHome, match="only to its own branch"):
        drill.run(main_job.home, "LEAK01", main_job.settings)
    assert not any(main_job.home.branches.glob("*"))


def test_a_base_that_changed_during_a_drill_fails_it(main_job: MainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = main_job.home.features / "rogue.parquet"
    monkeypatch.setattr(drill, "DRILLS", {"gate": lambda *_: (rogue.write_text("around the home"), drill.Watch())[1]})
    try:
        result = drill.run(main_job.home, "LEAK01", main_job.settings, clean=True)
    finally:
        rogue.unlink()
    assert not result.base_untouched
    assert not result.as_expected

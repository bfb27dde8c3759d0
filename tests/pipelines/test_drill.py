"""Drills on a home that the main job left: bugs are caught and named, clean runs are silent, the base stays as it was."""

import json

import pytest
from as_a_user import MainJob

from infra import branch
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from monitoring.findings import Checks
from pipelines import drill


@pytest.mark.parametrize(("bug", "subject", "checks"), [
    ("LEAK01", "user_clicks_1h", {"auc-jump", "row-rebuild"}),
    ("feature-drift", "device", {"distribution"}),
])  # fmt: skip
def test_a_strong_bug_is_caught_and_named_and_the_base_is_left_alone(
    main_job: MainJob, bug: str, subject: str, checks: set[str]
) -> None:
    before = branch.fingerprint(main_job.home)
    result = drill.run(main_job.home, bug, main_job.settings)
    assert result.as_expected
    assert result.found
    assert result.subject == subject
    assert result.expected == {"class": result.bug_class, "subject": subject}
    assert set(result.caught_by) == checks
    assert checks <= set(result.checks_run)
    assert result.base_untouched
    assert branch.fingerprint(main_job.home) == before
    assert not any(main_job.home.branches.glob("*"))
    assert json.loads(json.dumps(result.as_json()))["runbook"]


@pytest.mark.parametrize("bug", ["LEAK01", "DRIFT01"])
def test_the_same_checks_are_silent_without_the_bug(main_job: MainJob, bug: str) -> None:
    result = drill.run(main_job.home, bug, main_job.settings, clean=True)
    assert result.as_expected
    assert not result.found
    assert result.findings == [] or all(finding["severity"] == "notice" for finding in result.findings)
    assert result.checks_run
    assert result.expected is None


def test_an_unknown_bug_or_intensity_is_refused_before_anything_is_made(main_job: MainJob) -> None:
    for name, intensity in (("GREMLIN", "strong"), ("LEAK01", "wild")):
        with pytest.raises(ExplainedError, match="there are"):
            drill.run(main_job.home, name, main_job.settings, intensity=intensity)
    assert not any(main_job.home.branches.glob("*"))


def test_a_drill_cannot_write_to_the_base_that_it_opened(main_job: MainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Home] = []

    def watching(base: Home, name: str) -> Home:
        opened.append(base)
        return create(base, name)

    create = branch.create
    monkeypatch.setattr(branch, "create", watching)
    monkeypatch.setattr(drill, "STAGES", {"feature": lambda *_: opened[0].writing(opened[0].reports / "rogue.html")})
    with pytest.raises(ReadOnlyHome, match="only to its own branch"):
        drill.run(main_job.home, "LEAK01", main_job.settings)
    assert not any(main_job.home.branches.glob("*"))


def test_a_base_that_changed_during_a_drill_fails_it(main_job: MainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    rogue = main_job.home.features / "rogue.parquet"
    monkeypatch.setattr(drill, "STAGES", {"feature": lambda *_: (rogue.write_text("around the home"), Checks())[1]})
    try:
        result = drill.run(main_job.home, "LEAK01", main_job.settings, clean=True)
    finally:
        rogue.unlink()
    assert not result.base_untouched
    assert not result.as_expected

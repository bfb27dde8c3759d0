"""Progress never changes what is iterated, and without a terminal it says a line now and then."""

import pytest

from infra import progress as room
from infra.progress import progress


def test_items_come_through_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "work", "piece")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # done in no time: nothing to tell


def test_lines_tell_rate_and_estimate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(room.time, "perf_counter", lambda: float(next(ticks)))
    list(progress([1, 2, 3, 4, 5], "work", "piece"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work: 1 of 5, about ")
    assert lines[0].endswith("piece/s)")
    assert len(lines) < 5


def test_nothing_is_said_when_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LINE_EVERY_S", 0.0)
    assert list(progress("abc", "work", "piece", shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""

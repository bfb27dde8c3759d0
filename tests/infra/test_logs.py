"""A server's log: lines that programs and people can read, whatever was said."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.clock import to_us
from infra.logs import JsonLines, TextLines, about
from infra.redaction import STARS, hide


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    told = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("clickproof.test", logging.ERROR, "file.py", 1, message, arguments, told)


@pytest.fixture
def two_requests() -> Iterator[None]:
    before = about.set([7, 2**62])
    yield
    about.reset(before)


@given(message=st.text(), worker=st.none() | st.integers(0, 9), ids=st.lists(st.integers(0, 2**63 - 1), max_size=3))
def test_a_line_is_one_json_object_that_says_what_was_said(message: str, worker: int | None, ids: list[int]) -> None:
    before = about.set(ids)
    try:
        text = JsonLines(worker).format(record("%s", message))
    finally:
        about.reset(before)
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert line["message"] == message
    assert (line["level"], line["logger"], line.get("worker")) == ("ERROR", "clickproof.test", worker)
    assert (line.get("request_id"), line.get("request_ids")) == (
        (ids[0], None) if len(ids) == 1 else (None, ids) if ids else (None, None)
    )


def test_a_lines_time_is_utc_to_the_microsecond() -> None:
    told = record("now")
    moment = datetime.fromisoformat(json.loads(JsonLines().format(told))["time"])
    assert abs(to_us(moment) - told.created * 1e6) <= 1
    assert moment.utcoffset() is not None


def test_fields_and_exceptions_have_a_place_and_secrets_have_none() -> None:
    hide("t0ken-of-a-person")
    told = record("with %s", "t0ken-of-a-person", error=ValueError("not t0ken-of-a-person"))
    told.fields = {"status": 422}
    line = json.loads(JsonLines().format(told))
    assert line["message"] == f"with {STARS}"
    assert line["exception"].endswith(f"ValueError: not {STARS}")
    assert line["status"] == 422


def test_people_see_request_and_worker_too(two_requests: None) -> None:
    assert TextLines(3).format(record("late")).endswith(" late [request_ids [7, 4611686018427387904], worker 3]")
    about.set(())
    assert TextLines().format(record("late")).endswith(" late")


PROGRAM = """
import logging, warnings
from infra.logs import begin
from infra.redaction import hide
hide('t0ken')
begin('json', 1)
"""


@pytest.mark.parametrize(
    "end", ["raise ValueError('t0ken')", "warnings.warn('t0ken')", "logging.getLogger('x.y').warning('t0ken')"]
)
def test_whatever_a_process_says_is_json_also_its_last_words(end: str) -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM + end], capture_output=True, text=True, check=False)
    (line,) = said.stderr.splitlines()
    assert json.loads(line)["worker"] == 1
    assert "t0ken" not in line
    assert STARS in line

"""Whatever is sent to a real server as a request to rank or as clicks: no 5xx, and errors in their form that are short."""

import gzip
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from real_server import CANARY, GOOD, RealServer, Said, request

MANY = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],  # the server is the same for all examples
)
LONGEST = 2000  # bytes of an error, however long what it complains about


def refused(said: Said, *statuses: int) -> str:
    """The error's message; fails where the answer is another, or repeats too much of what was sent."""
    assert said.status in statuses, said
    assert len(said.body) < LONGEST
    return said.message


def with_raw(name: str, value: str) -> bytes:
    """A good body in which one field is this text, which need not be JSON."""
    fields = {key: json.dumps(each) for key, each in GOOD.items()} | {name: value}
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}").encode()


def bid(text: str) -> bytes:
    return with_raw("candidates", f'[{{"ad_id": 1, "bid": {text}}}]')


DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"a":' * (DEEP // 2),
        b"[" * DEEP + b"]" * DEEP,
        with_raw("context", "[" * DEEP + "]" * DEEP),
        with_raw("context", '{"device": ' + "[" * DEEP + "]" * DEEP + "}"),
        with_raw("candidates", "[" * DEEP + "]" * DEEP),
        with_raw("unknown", "[" * DEEP + "]" * DEEP),
    ],
    ids=lambda body: f"{body[:24]!r}",
)
def test_deep_json(unharmed: RealServer, body: bytes) -> None:
    refused(unharmed.rank(body), 400, 422)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "nan", "1e400", "-1e400", "1e9999999999", "-1", "1000000001"])
def test_prices_that_are_no_prices(unharmed: RealServer, text: str) -> None:
    refused(unharmed.rank(bid(text)), 400, 422)


@pytest.mark.parametrize("text", ["-0.0", "-0", "0", "1e-400", "5e-324", "1e9", "0." + "3" * 5000])
def test_prices_at_the_border(unharmed: RealServer, text: str) -> None:
    said = unharmed.rank(bid(text))
    assert said.status == 200
    (ad,) = json.loads(said.body)["ads"]
    assert math.isfinite(ad["p"])


@pytest.mark.parametrize("field", ["user_id", "request_id", "slots", "candidates"])
@pytest.mark.parametrize(
    "text",
    [str(2**63), str(2**64), str(-(2**63) - 1), "-1", "9" * 5000, "1" + "0" * 400, "1e30", "1.5", "7.0", '"' + "9" * 5000 + '"',
     "true", "[]", "{}", '"'],
)  # fmt: skip
def test_ids_that_are_no_ids(unharmed: RealServer, field: str, text: str) -> None:
    refused(unharmed.rank(with_raw(field, f"[{text}]" if field == "candidates" else text)), 400, 422)


@pytest.mark.parametrize("number", [0, 2**63 - 1, 2**53 + 1])
def test_ids_at_the_border_come_back_as_they_were(unharmed: RealServer, number: int) -> None:
    said = unharmed.rank({"user_id": number, "candidates": [number], "slots": 2**31 - 1, "request_id": number})
    assert said.status == 200
    answer = json.loads(said.body)
    assert (answer["request_id"], answer["ads"][0]["ad_id"]) == (number, number)


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, -1, 0])
def test_whole_numbers_of_the_context_may_be_any(unharmed: RealServer, number: int) -> None:
    assert unharmed.rank(GOOD | {"context": {"page_topic": number}}).status == 200


def test_thousands_of_candidates(unharmed: RealServer) -> None:
    most = 1000
    said = unharmed.rank(GOOD | {"candidates": list(range(most)), "slots": most})
    assert said.status == 200
    assert len(json.loads(said.body)["ads"]) == most
    assert str(most) in refused(unharmed.rank(GOOD | {"candidates": list(range(most + 1))}), 422)
    refused(unharmed.rank(GOOD | {"candidates": list(range(30_000))}), 422)
    refused(unharmed.rank(GOOD | {"candidates": list(range(100_000))}), 413)


def test_the_same_candidate_twice(unharmed: RealServer) -> None:
    said = refused(unharmed.rank(GOOD | {"candidates": [*range(999), 998]}), 422)
    assert "ad 998 is there twice" in said
    refused(unharmed.rank(GOOD | {"candidates": [{"ad_id": 1, "bid": 1}, {"ad_id": 1, "bid": 2}]}), 422)


def test_the_same_key_twice_counts_once(unharmed: RealServer) -> None:
    said = unharmed.rank(b'{"slots": 1, "candidates": [1, 2], "slots": 2, "candidates": [3, 4]}')
    assert said.status == 200
    assert sorted(ad["ad_id"] for ad in json.loads(said.body)["ads"]) == [3, 4]


@pytest.mark.parametrize(
    "body", [b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"\x00", b"{}{}", b"{} x", b"'", b"{'a': 1}"]
)
def test_what_is_no_request(unharmed: RealServer, body: bytes) -> None:
    refused(unharmed.rank(body), 400, 422)


TEXT = json.dumps(GOOD)
PLAIN = TEXT.encode()
ENCODINGS = {
    "utf-16": TEXT.encode("utf-16"),
    "utf-16-le": TEXT.encode("utf-16-le"),
    "utf-32": TEXT.encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "latin-1": PLAIN.replace(b"mobile", "café".encode("latin-1")),
    "gzip that nobody announced": gzip.compress(PLAIN),
    "overlong": PLAIN.replace(b"mobile", b"\xc0\x80"),
    "surrogate": PLAIN.replace(b"mobile", b"\xed\xa0\x80"),
    "escaped surrogate": PLAIN.replace(b"mobile", b"\\ud800"),
    "NUL": PLAIN.replace(b"mobile", b"a\x00b"),
    "NUL at the end": PLAIN + b"\x00",
    "newline": PLAIN.replace(b"mobile", b"a\nb"),
}


@pytest.mark.parametrize("body", ENCODINGS.values(), ids=ENCODINGS)
def test_wrong_encodings(unharmed: RealServer, body: bytes) -> None:
    refused(unharmed.rank(body), 400, 422)


@pytest.mark.parametrize(
    "word", ["\\u0000", "a\\u0000b", "\\ud83d\\ude00", "\\u202e", "{}", "%s%n", "$\\u007bjndi:x}", "' or 1=1 --"]
)
def test_odd_words_are_words(unharmed: RealServer, word: str) -> None:
    assert unharmed.rank(TEXT.encode().replace(b"mobile", word.encode())).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "gzip"}, {"Content-Encoding": "br, gzip"}, {"Content-Type": "text/plain"},
     {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "multipart/form-data; boundary=x"},
     {"Content-Type": "application/json; charset=utf-16"}, {"Content-Type": "application/json; charset=latin-1; charset=utf-8"},
     {"Content-Type": "application/jsonp"}, {"Content-Type": ""}, {"Content-Type": "application/json" + "; x=y" * 1000},
     {"Content-Type": "\xff"}],
)  # fmt: skip
def test_other_types_of_content(unharmed: RealServer, headers: dict[str, str]) -> None:
    body = gzip.compress(TEXT.encode()) if "Content-Encoding" in headers else TEXT.encode()
    refused(unharmed.rank(body, **headers), 415)


@pytest.mark.parametrize(
    "change",
    [{CANARY * 10_000: 1}, {"context": {CANARY * 10_000: "x"}}, {"context": {f"{CANARY}{i}": "x" for i in range(5000)}},
     {"context": {"device": CANARY * 10_000}}, {"user_id": CANARY * 10_000}, {"candidates": [CANARY * 10_000]},
     {"candidates": [{"ad_id": 1, CANARY * 10_000: 2}]}],
    ids=["field", "context", "fields", "word", "id", "candidate", "in candidate"],
)  # fmt: skip
def test_an_error_repeats_little_and_the_log_nothing(unharmed: RealServer, change: dict[str, Any]) -> None:
    refused(unharmed.rank(GOOD | change), 422)


CLICK = {"impression_id": 1}
CLICKS = {
    **ENCODINGS,
    "nothing": b"",
    "a list": json.dumps([CLICK]).encode(),
    "no clicks": b'{"clicks": []}',
    "thousands": json.dumps({"clicks": [CLICK] * 1001}).encode(),
    "deep": b'{"clicks": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep, beside": b'{"impression_id": 1, "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "NaN": b'{"impression_id": 1, "time": NaN}',
    "another year": b'{"impression_id": 1, "time": "0001-01-01T00:00:00Z"}',
    "a time without an offset": b'{"impression_id": 1, "time": "2026-01-05T00:00:00"}',
    "a huge time": b'{"impression_id": 1, "time": 9223372036854775807}',
    "a huge id": b'{"impression_id": 9223372036854775808}',
    "a huge id in digits": b'{"impression_id": "9223372036854775808"}',
    "no digits": '{"impression_id": "٣"}'.encode(),
    "both": b'{"clicks": [], "impression_id": 1}',
    "a long name": json.dumps({**CLICK, CANARY * 10_000: 1}).encode(),
}


@pytest.mark.parametrize("body", CLICKS.values(), ids=CLICKS)
def test_clicks_that_are_none(unharmed: RealServer, body: bytes) -> None:
    said = unharmed.send(request("POST", "/v1/events", body))
    assert said is not None
    refused(said, 400, 422)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "user_id": ANYTHING, "slots": ANYTHING | st.integers(1, 9), "request_id": ANYTHING, "context": ANYTHING,
        "candidates": ANYTHING | st.lists(st.integers(0, 2**63 - 1), max_size=30),
    },
)  # fmt: skip


@MANY
@given(change=FIELDS)
def test_any_json_in_any_field(unharmed: RealServer, change: dict[str, Any]) -> None:
    """Python writes NaN and Infinity, which are not JSON."""
    said = unharmed.rank(GOOD | change)
    if said.status != 200:
        refused(said, 400, 422)


@MANY
@given(body=st.binary(max_size=300))
def test_any_bytes(unharmed: RealServer, body: bytes) -> None:
    refused(unharmed.rank(body), 400, 422)


@MANY
@given(data=st.data())
def test_a_good_body_with_some_bytes_changed(unharmed: RealServer, data: st.DataObject) -> None:
    body = bytearray(TEXT.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    said = unharmed.rank(bytes(body))
    if said.status != 200:
        refused(said, 400, 422)

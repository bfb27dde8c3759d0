"""`is_whole` against the real parser: what it calls one whole request is one, whatever the head is made of."""

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_connections import LIES

from serving.whole import is_whole

BODY = b'{"user_id": 7, "candidates": [1, 2], "slots": 1, "context": {}}'
LENGTH = b"Content-Length: %d" % len(BODY)
LINE = b"POST /v1/rank HTTP/1.1"


def message(*lines: bytes, body: bytes = BODY) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


class Seen:
    """What httptools makes of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.begun = self.complete = 0
        self.url, self.keeps, self.upgrades = b"", False, False
        self.expects = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.expects |= name.lower() == b"expect"

    def on_headers_complete(self) -> None:
        self.keeps, self.upgrades = self.parser.should_keep_alive(), self.parser.should_upgrade()

    def on_message_complete(self) -> None:
        self.complete += 1


@pytest.mark.parametrize(
    "lines",
    [
        (b"Host: 127.0.0.1:8000", b"Content-Type: application/json", LENGTH),
        (b"host: a", b"accept: */*", b"user-agent: curl/8 (x; y)", b"content-type: application/json", LENGTH.lower()),
        (LENGTH, b"Connection: keep-alive", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"X_Y:"),
        (b"Host: a", LENGTH.replace(b" ", b"")),
    ],
)
def test_what_clients_send_is_whole_and_no_part_of_it_is(lines: tuple[bytes, ...]) -> None:
    whole = message(LINE, *lines)
    assert is_whole(whole)
    assert not any(is_whole(whole[:cut]) for cut in range(len(whole)))
    assert not is_whole(whole + b"P")
    assert not is_whole(whole + whole)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/rank HTTP/1.1",
        b"POST /v1/rank HTTP/1.0",
        b"POST /v1/model HTTP/1.1",
        b"POST /v1/rank?x HTTP/1.1",
        b"post /v1/rank HTTP/1.1",
    ],
)
def test_another_request_is_not(line: bytes) -> None:
    assert not is_whole(message(line, b"Host: a", LENGTH))


@pytest.mark.parametrize(
    "special", [b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"TE : x"]
)
def test_who_wants_more_than_a_slate_takes_the_usual_way(special: bytes) -> None:
    assert not is_whole(message(LINE, b"Host: a", special, LENGTH))
    assert not is_whole(message(LINE, b"Host: a", LENGTH, special))


@pytest.mark.parametrize("lines", LIES)
def test_a_lie_about_the_length_is_not(lines: tuple[str, ...]) -> None:
    assert not is_whole(message(LINE, b"Host: a", *(line.encode("latin-1") for line in lines)))


NAMES = [
    b"Host",
    b"Content-Length",
    b"content-LENGTH",
    b"Transfer-Encoding",
    b"Connection",
    b"Expect",
    b"Upgrade",
    b"X-A",
    b"x y",
    b"",
]
VALUES = [
    b"a",
    b"%d" % len(BODY),
    b"0",
    b"3",
    b"chunked",
    b"close",
    b"keep-alive",
    b"Keep-Alive",
    b"upgrade",
    b"100-continue",
    b"",
    b"\x00",
    b"\xff",
]
HEADER = st.tuples(
    st.sampled_from(NAMES), st.sampled_from([b":", b": ", b":  ", b" :", b":\t", b""]), st.sampled_from(VALUES)
).map(b"".join)
END = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n ", b"\r\n\r\n"])
PLAIN = st.sampled_from([b"Host: a\r\n", b"X-A: b\r\n", LENGTH + b"\r\n"])


@settings(max_examples=600)
@given(
    st.sampled_from([LINE + b"\r\n"] * 6 + [LINE + b"\n", b"POST /v1/rank HTTP/1.1 \r\n"]),
    st.lists(PLAIN | st.tuples(HEADER, END).map(b"".join), max_size=6),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
    st.sampled_from([BODY, BODY, BODY + b"G", BODY[:-1], b"", b"\r\n" + BODY]),
)
@example(LINE + b"\r\n", [LENGTH + b"\r\n"], b"\r\n", BODY)
def test_the_parser_agrees_with_all_that_is_called_whole(first: bytes, headers: list[bytes], end: bytes, body: bytes) -> None:
    data = first + b"".join(headers) + end + body
    if is_whole(data):
        seen = Seen(data)
        assert (seen.begun, seen.complete) == (1, 1)
        assert (seen.url, seen.parser.get_method(), seen.parser.get_http_version()) == (b"/v1/rank", b"POST", "1.1")
        assert seen.keeps
        assert not seen.upgrades
        assert not seen.expects

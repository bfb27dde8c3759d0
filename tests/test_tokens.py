"""Whoever changes something shows a token, compared in constant time; a page of another site changes and reads nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from infra.home import Home
from infra.settings import Settings
from pipelines.live.app import page_app
from pipelines.live.endpoint import drill_app
from pipelines.live.token import HEADER, drill_token, holds
from serving.metrics import ServingMetrics
from serving.serve import home_app

ROOT = Path(__file__).parent.parent
ROOMS = ("infra", "features", "models", "serving", "monitoring", "pipelines")
TOKEN = "the-token-of-this-test"
ASKS = {"/v1/rank"}  # a POST because of its size: it asks, and changes nothing but the prediction log
SECRET_WORDS = ("token", "secret", "password")
SAFE = ("GET", "HEAD", "OPTIONS")


# -- in constant time ------------------------------------------------------------------------------------------------------


def compared(tree: ast.Module) -> Iterator[str]:
    """Comparisons by == and `in` of something that is called a token, secret or password; of its length is fine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
            for side in (node.left, *node.comparators):
                name = ast.unparse(side).lower()
                if isinstance(side, ast.Name | ast.Attribute | ast.Subscript) and any(word in name for word in SECRET_WORDS):
                    yield ast.unparse(node)


def test_no_token_is_compared_letter_by_letter() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    found = {name: list(compared(ast.parse(path.read_text()))) for name, path in files.items()}
    assert {name: what for name, what in found.items() if what} == {}
    assert all(
        "hmac.compare_digest(" in files[name].read_text() for name in ("pipelines/live/token.py", "serving/write_token.py")
    )


@pytest.mark.parametrize(
    "code", ["token == given", "given != self._token", "given in tokens", "headers[TOKEN] == x", "a == chosen.password"]
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(compared(ast.parse(code)))


@given(token=st.text(min_size=1), other=st.text())
def test_only_the_token_holds(token: str, other: str) -> None:
    assert holds(token, token)
    assert holds(other, token) is (other == token)
    assert not holds(None, token)


def test_nobody_holds_an_empty_token() -> None:
    assert not holds("", "")
    assert not holds(None, "")


def test_a_token_is_made_where_none_is_set_and_differs_each_time() -> None:
    made = {drill_token(Settings()) for _ in range(5)}
    assert len(made) == 5
    assert all(len(token) >= 16 for token in made)
    assert drill_token(Settings(drill_token=TOKEN)) == TOKEN


# -- every route -----------------------------------------------------------------------------------------------------------


class Untouched:
    """In the place of a control room: fails where anything but its token is asked for."""

    token = TOKEN

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a request without the token reached the room's {name}")


def apps() -> dict[str, FastAPI]:
    return {
        "endpoint": home_app(Home(Path("nowhere")), Settings(write_token=TOKEN), 0, ServingMetrics()),
        "drill": drill_app(Home(Path("nowhere")), Settings(), TOKEN, "previous"),
        "page": page_app(Untouched(), {}),  # type: ignore[arg-type]
    }


def writes() -> list[tuple[str, str, str]]:
    """(app, method, path) of every route that does more than read."""
    found = []
    for name, app in apps().items():
        for route in app.routes:
            if isinstance(route, APIRoute) and route.path not in ASKS:
                path = route.path.replace("{number}", "1").replace("{state}", "acknowledged")
                found += [(name, method, path) for method in sorted(route.methods) if method not in SAFE]
    return found


def test_there_are_routes_that_write() -> None:
    found = {(app, path) for app, _, path in writes()}
    assert ("endpoint", "/v1/events") in found
    assert found >= {("drill", f"/drill/{what}") for what in ("inject", "heal")}
    assert found >= {("page", f"/api/{what}") for what in ("inject", "heal", "speed", "incidents/1/acknowledged")}


WRONG = ("", "wrong", TOKEN[:-1], TOKEN + " x")


@pytest.mark.parametrize("headers", [{}, *({HEADER: each, "Authorization": f"Bearer {each}"} for each in WRONG)])
@pytest.mark.parametrize(("app", "method", "path"), writes())
def test_whoever_does_not_show_the_token_is_refused_whatever_is_sent(
    app: str, method: str, path: str, headers: dict[str, str]
) -> None:
    client = TestClient(apps()[app])  # not entered: no model is loaded
    for body in (b"", b"{}", b"{", b'{"code": "SKEW03", "intensity": "strong"}', b"x" * 1_000_000):
        answer = client.request(method, path, content=body, headers={"Content-Type": "application/json", **headers})
        assert answer.status_code in (401, 403)
        assert TOKEN not in answer.text


# -- pages of other sites --------------------------------------------------------------------------------------------------


def test_a_page_of_another_site_writes_no_click_where_no_token_is_set() -> None:
    """Without a write token this machine may write, and a browser is on it.  Without asking first (which is not answered) it
    can send forms and text, which are not JSON."""
    app = home_app(Home(Path("nowhere")), Settings(), 0, ServingMetrics())
    client = TestClient(app, client=("127.0.0.1", 4000))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/events", content=b'{"impression_id": 1}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/events", headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.fixture
def page() -> TestClient:
    return TestClient(page_app(Untouched(), {"model": "m"}), base_url="http://127.0.0.1:8080")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://127.0.0.1:8080.evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8080"},
    ],
)
def test_a_browser_that_speaks_for_another_site_is_refused_even_with_the_token(
    page: TestClient, headers: dict[str, str]
) -> None:
    for method, path in (
        ("POST", "/api/heal"),
        ("POST", "/api/inject"),
        ("GET", "/api/state"),
        ("GET", "/api/incidents/1/report"),
    ):
        answer = page.request(method, path, json={}, headers={HEADER: TOKEN, **headers})
        assert (answer.status_code, "another site" in answer.json()["detail"]) == (403, True)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
)
def test_the_page_itself_and_programs_are_answered(page: TestClient, headers: dict[str, str]) -> None:
    assert page.get("/api/about", headers=headers).json()["model"] == "m"


def test_a_link_from_elsewhere_may_open_the_page_and_nobody_may_frame_it(page: TestClient) -> None:
    answer = page.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"

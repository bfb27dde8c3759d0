"""Some of every kind of request to a real server: good, refused, degraded, failing."""

import json
import resource
import sqlite3
from collections.abc import Iterable

from real_server import CANARY, GOOD, RealServer, request

from features.catalogue import VIEWS
from features.online_values import key_bytes
from infra.home import Home
from serving.prediction_log import segments

UNREADABLE = 5  # a user whose row in the store is damaged
CONTEXT = {"device": "mobile", "page_topic": 3, "placement": "home_top"}
USERS = range(10, 30)


def damage(home: Home) -> None:
    """Damage the user's row."""
    (view,) = (view for view in VIEWS if view.name == "user_daily")
    with sqlite3.connect(home.online) as store:
        changed = store.execute(
            "UPDATE clickproof_rows SET packed = x'00' WHERE view = ? AND entity_key = ?",
            (view.name, *key_bytes(view, [UNREADABLE])),
        )
        assert changed.rowcount == 1
    store.close()


def send_traffic(server: RealServer, home: Home) -> None:
    """Some of everything."""
    ask_for_good(server, USERS)
    degraded = json.loads(server.rank(GOOD | {"user_id": UNREADABLE, "context": CONTEXT}).body)
    assert degraded["marks"]["degraded"] == "priors"
    assert server.rank(GOOD | {"request_id": 41, "slots": 0}).status == 422
    assert server.rank(GOOD | {"request_id": 42, "context": {CANARY: "x"}}).status == 422
    assert server.rank(GOOD | {"context": {CANARY: "x"}}).status == 422
    assert server.rank(b"{" + CANARY.encode()).status == 400
    fail(server, home)
    assert server.rank(GOOD | {"context": CONTEXT}).status == 200


def ask_for_good(server: RealServer, users: Iterable[int]) -> None:
    """A slate for each user, whose first ad is clicked twice."""
    for user in users:
        said = server.rank(GOOD | {"user_id": user, "context": CONTEXT})
        assert said.status == 200
        clicked = json.dumps({"impression_id": json.loads(said.body)["ads"][0]["impression_id"]}).encode()
        for _ in range(2):
            took = server.send(request("POST", "/v1/events", clicked))
            assert took is not None
            assert took.status == 202


def fail(server: RealServer, home: Home) -> None:
    """A request while the prediction log can't grow: no file of the server may be longer than that is now."""
    (segment,) = (path for path in segments(home) if path.stat().st_size > 0)
    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (segment.stat().st_size, before[1]))
    try:
        assert server.rank(GOOD | {"request_id": 43}).status == 503
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)

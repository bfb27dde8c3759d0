"""The gRPC door: what it answers is what REST answers, what is wrong has its status, and it keeps the server's promises."""

import io
import json
import logging
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from grpc_client import CHECK, RANK, both_doors, calling, message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S
from ports import free_port
from real_server import serving
from slow_models import PausingArtefact, SlowArtefact, slow
from test_app import service

from infra.errors import ExplainedError
from infra.home import Home
from infra.logs import JsonLines
from infra.settings import Settings
from serving import clickproof_pb2 as pb
from serving.prediction_log import read, segments
from serving.rank_handler import Service
from serving.serve import serve
from serving.waiting_room import WaitingRoom

Code = grpc.StatusCode
PUSHBACK = ("grpc-retry-pushback-ms", "1000")


def ready(doors):
    """The doors, once there is a model behind them."""
    while doors.rest.get("/readyz").status_code != 200:
        time.sleep(0.005)
    return doors


@pytest.fixture
def doors(home):
    with both_doors(lambda: service(home), max_candidates=50, max_body_bytes=4096, max_wait_ms=60_000) as found:
        yield ready(found)


def logged(home: Home) -> list[int]:
    """Ids of the requests in the prediction log."""
    return [record.request_id for path in segments(home) for record, _ in read(path)]


# -- the same answers ---------------------------------------------------------------------------------------------------------


def as_json(answer: pb.RankAnswer) -> dict:
    """An answer in the form of REST's."""
    ads = [
        {name: getattr(ad, name) for name in ("ad_id", "slot", "impression_id", "p", "s", "propensity")} for ad in answer.ads
    ]
    marks = {
        "user": answer.marks.user,
        "unknown_ads": list(answer.marks.unknown_ads),
        "missing": list(answer.marks.missing),
        "stale": list(answer.marks.stale),
        "degraded": answer.marks.degraded,
    }
    names = ("request_id", "arm", "model", "policy", "randomised")
    return {**{name: getattr(answer, name) for name in names}, "ads": ads, "marks": marks}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"user_id": None},
        {"user_id": 2**63 - 1, "candidates": [5, 2**63 - 1, 7], "slots": 9},
        {"bids": [0.5, 2.0, 0.0, 1e9, 0.25]},
        {"context": {}},
        {"candidates": [33, 34], "slots": 1},
    ],
)
def test_the_same_request_gets_the_same_answer_at_both_doors(doors, change):
    for request_id in range(30):  # some are randomised
        asked = message(request_id, **change)
        body = {"user_id": 3, "candidates": [1, 2, 3, 4, 5], "slots": 2, "context": {"device": "mobile", "page_topic": 3}}
        body |= {"request_id": request_id, **{name: value for name, value in change.items() if name != "bids"}}
        if "bids" in change:
            pairs = zip(body["candidates"], change["bids"], strict=True)
            body["candidates"] = [{"ad_id": ad, "bid": bid} for ad, bid in pairs]
        rest = doors.rest.post("/v1/rank", json=body).json()
        assert as_json(doors.grpc.rank(asked)) == rest


def test_a_trained_champion_answers_the_same_at_both_doors(market_state, tmp_path):
    """As users start it, over real sockets; the record in the log is the same too."""
    port, rng, asked_ids = free_port(), np.random.default_rng(1), range(2**40, 2**40 + 40)
    with serving(market_state, tmp_path / "log", grpc_port=port) as server, calling(port) as ranking:
        for request_id in range(2**40, 2**40 + 40):
            user, ads = int(rng.integers(20)), rng.choice(60, 12, replace=False).tolist()
            context = {"device": "mobile", "page_topic": int(rng.integers(5))}
            asked = message(request_id, user_id=user, candidates=ads, slots=4, context=context)
            body = {"user_id": user, "candidates": ads, "slots": 4, "context": context, "request_id": request_id}
            there, here = as_json(ranking.rank(asked)), json.loads(server.rank(body).body)
            of_ads = [[(ad.pop("p"), ad.pop("s")) for ad in answer["ads"]] for answer in (there, here)]
            np.testing.assert_allclose(*of_ads, rtol=1e-4)  # time has passed between the two: the user's last click is older
            assert there == here
        assert ranking.refused(b"", compression=grpc.Compression.Gzip).code() == Code.UNIMPLEMENTED
        assert ranking.refused(b"\xff").code() == Code.INVALID_ARGUMENT
    said = (tmp_path / "log").read_text()
    assert "gRPC: clickproof.v1.Ranking on 127.0.0.1 port" in said
    assert ".cc:" not in said  # gRPC's core, of what callers did
    home = Settings(home=market_state, size="tiny").base()
    found = [record for path in segments(home) for record, _ in read(path) if record.request_id in asked_ids]
    assert len(found) == 80
    for one, other in zip(found[::2], found[1::2], strict=True):
        same = ("request_id", "user_id", "policy", "randomised", "arm", "artefact", "encoder", "ad_id", "shown", "propensity")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_what_the_docs_say_works(doors, capsys):
    """The Python of docs/serving.md, and the body that it has for grpcurl, against this server."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    patient = program.replace("127.0.0.1:8001", f"127.0.0.1:{doors.handler.settings.grpc_port}").replace("0.2)", "60)")
    assert patient.count("timeout=60)") == 1
    exec(patient, {})
    assert capsys.readouterr().out.count("(") == 3
    body = re.search(r"grpcurl .* -d '(.*?)' 127.0.0.1:8001 clickproof.v1.Ranking/Rank", page, re.DOTALL)[1]
    assert len(doors.grpc.rank(json_format.Parse(body, pb.RankRequest())).ads) == 3


def test_an_id_is_made_where_none_is_given_and_logged_before_the_answer(doors, home):
    first, second = (doors.grpc.rank(message()) for _ in range(2))
    assert first.request_id != second.request_id
    assert logged(home) == [first.request_id, second.request_id]


def test_an_answer_that_cannot_be_logged_is_not_given(doors, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(doors.handler.state.service.scorer.log, "append", full)
    said = doors.grpc.refused(message(1).SerializeToString())
    assert (said.code(), PUSHBACK in said.trailing_metadata()) == (Code.UNAVAILABLE, True)
    assert "prediction log" in said.details()


# -- what is wrong ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": -1}, "user_id"),
        ({"slots": 0}, "slots"),
        ({"slots": -5}, "slots"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [1, 2, 1]}, "candidates[2]"),
        ({"candidates": [1, -5]}, "candidates[1]"),
        ({"candidates": range(51)}, "candidates"),
        ({"bids": [1.0]}, "bids"),
        ({"bids": [1.0, 1.0, 1.0, -1.0, 1.0]}, "bids[3]"),
        ({"bids": [1.0, 1.0, 1.0, 1.0, np.nan]}, "bids[4]"),
        ({"bids": [1.0, np.inf, 1.0, 1.0, 1.0]}, "bids[1]"),
        ({"bids": [2e9, 1.0, 1.0, 1.0, 1.0]}, "bids[0]"),
        ({"context": {"device": 5}}, "context.device"),
        ({"context": {"page_topic": "news"}}, "context.page_topic"),
        ({"context": {"browser": "x"}}, "context.browser"),
        ({"context": {"device": "x" * 129}}, "context[...]"),
        ({"request_id": -1}, "request_id"),
    ],
)
def test_a_wrong_field_is_named(doors, home, change, field):
    asked = message(**{"request_id": 5, **change})
    said = doors.grpc.refused(asked.SerializeToString())
    assert said.code() == Code.INVALID_ARGUMENT
    assert said.details().startswith(f"{field}: ")
    assert logged(home) == []


def test_the_log_has_the_id_of_a_refused_call(doors):
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("clickproof.serving")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        doors.grpc.refused(message(request_id=5, candidates=[1, 2, 1]).SerializeToString())
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    (line,) = (json.loads(line) for line in told.getvalue().splitlines())
    assert (line["route"], line["status"], line["request_id"]) == ("grpc", 422, 5)


def test_a_value_without_a_value_is_unknown(doors):
    asked = message(3)
    asked.context["device"].Clear()
    assert as_json(doors.grpc.rank(asked)) == as_json(doors.grpc.rank(message(3, context={"page_topic": 3})))


@pytest.mark.parametrize("body", [b"\xff", b"\x12\xff\xff\xff\xff\x0f", b'{"candidates": [1], "slots": 1}', b"\x22"])
def test_what_is_no_message_is_refused(doors, body):
    said = doors.grpc.refused(body)
    assert said.code() == Code.INVALID_ARGUMENT
    assert "clickproof.v1.RankRequest" in said.details()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=st.binary(max_size=200) | st.builds(bytes, st.lists(st.sampled_from(range(64)), max_size=40)))
def test_whatever_is_sent_the_caller_is_to_blame_or_answered(doors, body):
    call = doors.grpc.channel.unary_unary(RANK).future(body)
    assert call.code() in (Code.INVALID_ARGUMENT, Code.OK)
    assert len(call.details()) < 1000


def test_huge_lists_are_refused_before_they_are_read(doors):
    too_long = message(candidates=range(2**40, 2**40 + 2000)).SerializeToString()
    assert len(too_long) > 4096
    assert doors.grpc.refused(too_long).code() == Code.RESOURCE_EXHAUSTED
    small = message(candidates=range(2000, 2500)).SerializeToString()
    assert len(small) < 4096
    assert doors.grpc.refused(small).details() == "candidates: 500 candidates; this server takes 50 at most"
    bomb = doors.grpc.refused(b"\0" * 50_000_000, compression=grpc.Compression.Gzip)
    assert bomb.code() == Code.UNIMPLEMENTED
    assert doors.grpc.refused(b"", metadata=(("a", "b" * 20_000),)).code() == Code.RESOURCE_EXHAUSTED
    assert doors.grpc.rank(message(1)).request_id == 1


def test_one_connection_too_many_is_refused_and_the_others_work(home):
    with both_doors(lambda: service(home), max_connections=2) as doors:
        ready(doors).grpc.rank(message(1))
        port = doors.handler.settings.grpc_port
        with calling(port) as second, calling(port) as third:
            assert second.rank(message(2)).request_id == 2
            assert third.refused(message(3).SerializeToString()).code() == Code.UNAVAILABLE
            assert second.rank(message(4)).request_id == 4


# -- readiness and health -----------------------------------------------------------------------------------------------------


def test_before_a_model_is_loaded_calls_and_health_say_so(home):
    loaded = threading.Event()

    def load() -> Service:
        assert loaded.wait(PATIENCE_S)
        return service(home)

    with both_doors(load) as doors:
        said = doors.grpc.refused(message(1).SerializeToString())
        assert (said.code(), PUSHBACK in said.trailing_metadata()) == (Code.UNAVAILABLE, True)
        assert "being loaded" in said.details()
        assert doors.grpc.send(b"", CHECK) == b"\x08\x02"
        loaded.set()
        ready(doors)
        assert doors.grpc.send(b"", CHECK) == doors.grpc.send(b"\n\x15clickproof.v1.Ranking", CHECK) == b"\x08\x01"
        assert doors.grpc.refused(b"\n\x05other", CHECK).code() == Code.NOT_FOUND
        assert doors.grpc.refused(b"", RANK + "s").code() == Code.UNIMPLEMENTED
        said = doors.rest.get("/metrics").text
        assert 'clickproof_requests_total{route="grpc",status="503"} 1.0' in said


# -- too much, too late, the end ----------------------------------------------------------------------------------------------


def outcome(call: grpc.Call) -> tuple[Code, bool]:
    """A finished call's status, and whether it says when to come again."""
    return call.code(), PUSHBACK in (call.trailing_metadata() or ())


@pytest.mark.parametrize(
    ("artefact", "chosen", "why"),
    [
        (SlowArtefact(), {"micro_batch": 1, "max_waiting": 24, "max_wait_ms": 60_000}, "full"),
        (PausingArtefact(), {"micro_batch": 1, "max_waiting": 1000, "max_wait_ms": 500}, "late"),
    ],
)
def test_what_is_too_much_is_refused_with_a_time_to_ask_again_and_the_rest_is_answered(home, artefact, chosen, why):
    with both_doors(lambda: slow(home, artefact), **chosen) as doors, ThreadPoolExecutor(8) as pool:
        ready(doors)
        calls = [doors.grpc.rank.future(message(i)) for i in range(48)]
        rest = list(pool.map(lambda i: doors.rest.post("/v1/rank", json={"candidates": [i], "slots": 1}), range(24)))
        found = Counter(outcome(call) for call in calls)
        assert set(found) == {(Code.OK, False), (Code.RESOURCE_EXHAUSTED, True)}
        refused = found[Code.RESOURCE_EXHAUSTED, True] + sum(answer.status_code == 503 for answer in rest)
        said = doors.rest.get("/metrics").text
        assert f'clickproof_shed_total{{why="{why}"}} {refused}.0' in said
        answered = [call.result().request_id for call in calls if call.code() == Code.OK]
    assert 0 < len(answered) == len(set(answered))
    assert set(answered) <= set(logged(home))


def test_a_request_whose_deadline_is_over_is_not_scored(home):
    """The server is busy with the first until the second's caller has given up; then it goes on with the third."""
    artefact = SlowArtefact(seconds=60)
    with both_doors(lambda: slow(home, artefact), max_wait_ms=60_000) as doors:
        ready(doors)
        first = doors.grpc.rank.future(message(1))
        assert artefact.began.wait(PATIENCE_S)
        second = doors.grpc.rank.future(message(2), timeout=0.5)
        assert second.code() == Code.DEADLINE_EXCEEDED
        artefact.gate.set()
        assert first.result().request_id == 1
        assert doors.grpc.rank(message(3)).request_id == 3
    assert logged(home) == [1, 3]


@pytest.mark.parametrize(("gives_up", "status"), [(lambda call: call.code(), 504), (lambda call: call.cancel(), 499)])
def test_a_call_that_nobody_waits_for_is_counted_and_leaves_the_room(home, monkeypatch, gives_up, status):
    came, enter = [], WaitingRoom.enter
    monkeypatch.setattr(WaitingRoom, "enter", lambda room, door, turn, **_: came.append(turn))
    with both_doors(lambda: service(home)) as doors:
        ready(doors)
        call = doors.grpc.rank.future(message(1), timeout=2.0 if status == 504 else PATIENCE_S)
        while not came:
            time.sleep(0.001)
        assert not came[0].disconnected or status == 504
        gives_up(call)
        line = f'clickproof_requests_total{{route="grpc",status="{status}"}} 1.0'
        while line not in doors.rest.get("/metrics").text:
            time.sleep(0.005)
        assert came[0].disconnected
        monkeypatch.setattr(WaitingRoom, "enter", enter)
        assert doors.grpc.rank(message(2)).request_id == 2
    assert logged(home) == [2]


def test_stopping_answers_those_who_wait(home, monkeypatch):
    came, enter = [], WaitingRoom.enter
    monkeypatch.setattr(
        WaitingRoom, "enter", lambda room, door, turn, **how: (came.append(turn), enter(room, door, turn, **how))
    )
    with ExitStack() as outliving:
        with both_doors(lambda: slow(home, SlowArtefact()), max_wait_ms=60_000) as doors:
            caller = outliving.enter_context(calling(ready(doors).handler.settings.grpc_port))
            waiting = [caller.rank.future(message(i)) for i in range(8)]
            while len(came) < len(waiting):
                time.sleep(0.001)
        # The server was told to stop when the last of the eight had arrived, and has stopped now.
        assert [call.code() for call in waiting] == [Code.OK] * 8
        assert caller.refused(message(9).SerializeToString()).code() == Code.UNAVAILABLE
    assert sorted(logged(home)) == list(range(8))


# -- starting -----------------------------------------------------------------------------------------------------------------


def test_several_workers_share_both_ports(market_state, tmp_path):
    port = free_port()
    home = Settings(home=market_state, size="tiny").base()
    before = set(segments(home))
    with serving(market_state, tmp_path / "log", grpc_port=port, workers=2):
        asked = 0
        while True:
            with calling(port) as ranking:
                call = ranking.rank.future(message(2**41 + asked, candidates=[1, 2], slots=1))
                assert call.code() in (Code.OK, Code.UNAVAILABLE)  # the other worker may still be loading
                asked += 1
            new = [path for path in segments(home) if path not in before]
            if sum(any(True for _ in read(path)) for path in new) == 2:  # both have answered
                break
            assert asked < 2000, "one worker gets all connections"


def test_a_port_that_cannot_be_had_says_which_setting(home):
    with pytest.raises(ExplainedError, match="CLICKPROOF_GRPC_PORT=8011"):
        serve(home, Settings(port=8123, grpc_port=8123))
    with both_doors(lambda: service(home)) as doors:
        taken = doors.handler.settings.grpc_port
        with pytest.raises(ExplainedError, match=f"{taken} can't be used.*CLICKPROOF_GRPC_PORT"):
            serve(home, Settings(port=free_port(), grpc_port=taken))

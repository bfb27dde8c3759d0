"""REST beside gRPC in the benchmark: the same questions in both forms, and a client that counts what was answered."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ExplainedError
from pipelines.bench.closed_loop import Load
from pipelines.bench.doors import RANK, by_grpc, message
from pipelines.bench.population import body
from serving.grpc_messages import decode as of_grpc
from serving.messages import decode as of_json
from serving.scorer import RankRequest

BODIES = [b"%d" % number for number in range(50)]
ids = st.integers(0, 2**63 - 1)


@given(
    user=st.integers(-1, 2**63 - 1),
    ads=st.lists(ids, min_size=1, max_size=30),
    slots=st.integers(1, 100),
    context=st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(-(2**63), 2**63 - 1), max_size=4),
)
def test_both_forms_ask_the_same(user: int, ads: list[int], slots: int, context: dict[str, str | int]) -> None:
    asked = body(RankRequest(user, np.array(ads, np.int64), slots, context))
    assert of_grpc(message(asked)) == of_json(asked)


@contextmanager
def counting(received: list[bytes], refuse: bytes = b"") -> Iterator[int]:
    """The port of a server that answers everything but `refuse`."""

    def answer(asked: bytes, context: grpc.ServicerContext) -> bytes:
        received.append(asked)
        if asked == refuse:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
        return b""

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        service, name = RANK[1:].split("/")
        server.add_registered_method_handlers(service, {name: grpc.unary_unary_rpc_method_handler(answer)})
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("connections", [1, 8])
def test_every_call_is_answered_and_counted_once(connections: int) -> None:
    received: list[bytes] = []
    with counting(received) as port:
        for first in (0, 45):
            found = by_grpc(port, RANK, BODIES, first, Load(20, connections, 30, 60))
            assert (found.client, found.requests) == ("grpc.aio", 30)
            assert 0 < found.p50_ms <= found.p99_ms
            assert sorted(received) == sorted(BODIES[(first + i) % 50] for i in range(30))
            received.clear()


def test_time_ends_it_too_and_a_refusal_is_an_error() -> None:
    with counting([]) as port:
        assert 0 < by_grpc(port, RANK, BODIES, 0, Load(20, 2, 10**9, 0.2)).requests < 10**6
    with counting([], refuse=b"7") as port, pytest.raises(ExplainedError, match="INVALID_ARGUMENT: not this one"):
        by_grpc(port, RANK, BODIES, 0, Load(20, 2, 30, 60))

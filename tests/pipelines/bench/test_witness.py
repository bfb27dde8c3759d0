"""The client that keeps every answer, against a server that refuses, breaks and goes away."""

import asyncio

import numpy as np
from slow_server import serving

from pipelines.bench.population import message
from pipelines.bench.processes import free_port
from pipelines.bench.witness import RENEW, Witness, percentiles_ms


def run(port: int, at_s: np.ndarray, connections: int = 4) -> Witness:
    async def offer() -> Witness:
        witness = Witness(port, connections)
        await witness.offer([message(b"%d" % number) for number in range(len(at_s))], at_s)
        return witness

    return asyncio.run(offer())


def test_every_request_is_seen_once_with_what_became_of_it() -> None:
    fates = {1: 503, 3: 0, 7: 500}
    with serving(lambda number: fates.get(number % 11, 200)) as server:
        witness = run(server.port, np.linspace(0.0, 0.3, 110))
    assert len(witness.seen) == 110
    assert sorted(server.received) == list(range(110))
    statuses = [one.status for one in witness.seen]
    assert {status: statuses.count(status) for status in set(statuses)} == {200: 80, 503: 10, 500: 10, 0: 10}
    answered = {one.said()["number"] for one in witness.seen if one.ok}
    assert answered == {number for number in range(110) if fates.get(number % 11, 200) == 200}


def test_latency_counts_from_when_a_request_was_due() -> None:
    """One connection and 10 ms each, asked all at once: the last one waits for all before it."""
    with serving(lambda _: 200, service_s=0.01) as server:
        witness = run(server.port, np.zeros(10), connections=1)
    latencies = sorted(one.latency_s for one in witness.seen)
    assert latencies[0] >= 0.01
    assert latencies[-1] >= 0.1
    assert percentiles_ms(witness.seen)["p50_ms"] == round(float(np.median(latencies)) * 1e3, 3)


def test_connections_are_renewed() -> None:
    with serving(lambda _: 200) as server:
        run(server.port, np.zeros(2 * RENEW + 1), connections=1)
    assert len(server.links) == 3


def test_nobody_there_is_no_answer_and_no_error() -> None:
    witness = run(free_port(), np.zeros(5))
    assert [one.status for one in witness.seen] == [0] * 5
    assert percentiles_ms(witness.seen) == {"p50_ms": None, "p99_ms": None}

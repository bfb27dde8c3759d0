"""The open-loop client against a real server that says itself what it did: nothing is lost, nothing counts twice, and who waits
because the server was slow is counted from the moment at which it was due."""

import time

import numpy as np
import pytest
from slow_server import SlowServer, serving

from infra.errors import ExplainedError
from pipelines.bench.open_loop import OpenLoop, Outcome, Tally, poisson
from pipelines.bench.population import message
from pipelines.bench.processes import free_port

FOREVER_S = 60.0  # a deadline that no slow machine misses


def messages(n: int) -> list[bytes]:
    return [message(b"%d" % number) for number in range(n)]


def offered(server: SlowServer, at_s: np.ndarray, connections: int, deadline_s: float) -> Tally:
    pool = OpenLoop(server.port, connections)
    try:
        return pool.run(messages(len(at_s)), at_s, deadline_s)[0]
    finally:
        pool.close()


def fate(number: int) -> int | None:
    """Every fate that a request can have, by its number."""
    return {1: 503, 2: 429, 3: 500, 4: 0, 5: 404}.get(number % 11, 200)


def test_every_request_is_counted_once_and_under_what_became_of_it() -> None:
    n = 220
    with serving(fate) as server:
        tally = offered(server, np.linspace(0, 0.5, n), 40, FOREVER_S)
    said = [fate(number) for number in range(n)]
    assert sorted(server.received) == list(range(n))
    assert len(tally.latencies_s) == said.count(200)
    assert tally.shed == said.count(503) + said.count(429)
    assert tally.failed == said.count(500) + said.count(404) + said.count(0)
    assert (tally.unsent, tally.unanswered, tally.offered) == (0, 0, n)


def test_latencies_count_from_when_a_request_was_due_and_not_from_when_it_could_be_sent() -> None:
    """Two connections and a server that takes 10 ms for each request, asked every 2 ms: a closed loop would see 20 ms."""
    at_s = np.arange(40) * 0.002
    with serving(lambda _: 200, service_s=0.01) as server:
        tally = offered(server, at_s, 2, FOREVER_S)
    # By the server's own clock: the run had begun when it received the first request, and nobody had an answer before it
    # was given.  So the k-th smallest latency is at least the k-th smallest of these.
    least = np.sort([server.answered_s[number] - (server.received_s[0] + at_s[number]) for number in range(40)])
    assert (np.sort(tally.latencies_s) >= least).all()
    assert max(tally.latencies_s) >= 0.40 - at_s[-1]  # one after the other they took 0.4 s
    assert np.median(tally.latencies_s) > 0.05  # what two connections that wait for each other never see


def test_who_finds_no_connection_in_time_is_unsent_and_who_gets_no_answer_is_unanswered() -> None:
    with serving(lambda number: None if number < 3 else 200) as server:
        tally = offered(server, np.array([0.0, 0.0, 0.0, 0.01, 0.02, 0.6]), 3, 0.1)
    assert sorted(server.received) == [0, 1, 2]  # all three connections wait for ever; the rest is never sent
    assert (tally.unanswered, tally.unsent, tally.offered) == (3, 3, 6)
    assert tally.latencies_s == []


def test_the_client_sleeps_while_nothing_is_due_and_nothing_comes() -> None:
    """Processor time and no clock: three seconds with two requests cost what a few system calls cost."""
    with serving(lambda _: 200) as server:
        pool = OpenLoop(server.port, 2)
        try:
            before = time.thread_time()
            pool.run(messages(2), np.array([0.0, 3.0]), FOREVER_S)
            used = time.thread_time() - before
        finally:
            pool.close()
    assert used < 0.5  # collecting garbage before the run included


def test_a_pool_can_be_used_again_after_it_gave_up() -> None:
    with serving(lambda number: None if number == 0 else 200) as server:
        pool = OpenLoop(server.port, 2)
        try:
            first, _ = pool.run(messages(1), np.zeros(1), 0.05)
            second, _ = pool.run(messages(3)[1:], np.zeros(2), FOREVER_S)
        finally:
            pool.close()
    assert (first.unanswered, first.offered) == (1, 1)
    assert (len(second.latencies_s), second.offered) == (2, 2)


def test_the_watch_sees_the_tally_grow() -> None:
    seen: list[int] = []
    with serving(lambda _: 200) as server:
        pool = OpenLoop(server.port, 4)
        try:
            tally, _ = pool.run(messages(60), np.arange(60) / 24, FOREVER_S, lambda _, so_far: seen.append(so_far.offered))
        finally:
            pool.close()
    assert seen == sorted(seen)
    assert seen
    assert 0 < seen[0] < tally.offered == 60


def test_nobody_listening_is_said() -> None:
    with pytest.raises(ExplainedError, match="make serve"):
        OpenLoop(free_port(), 1)


def test_an_outcome_is_made_of_what_was_offered() -> None:
    tally = Tally([0.001] * 98 + [0.2], shed=1, failed=0, unsent=0, unanswered=0, late_s=[0.0] * 100)
    outcome = Outcome.of(tally, rate=50.0, seconds=2.0, deadline_s=0.05, client_cpu=0.1)
    assert (outcome.offered, outcome.answered, outcome.good) == (100, 99, 98)
    assert (outcome.good_share, outcome.goodput) == (0.98, 49.0)
    nothing = Outcome.of(Tally(), 1.0, 1.0, 0.05, 0.0)
    assert (nothing.p50_ms, nothing.good_share) == (None, 0.0)


def test_arrivals_are_poisson() -> None:
    at = poisson(1000.0, 40.0, np.random.default_rng(3))
    assert (np.diff(at) > 0).all()
    assert at[-1] < 40.0
    counts = np.bincount((at * 10).astype(int), minlength=400)  # in tenths of a second: mean 100, and variance the same
    assert abs(counts.mean() - 100) < 4 * (100 / 400) ** 0.5
    assert 0.7 < counts.var() / counts.mean() < 1.3

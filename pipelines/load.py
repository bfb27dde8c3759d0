"""A load test of a running endpoint on this machine: requests at a given rate, whatever it answers.  Called by
`clickproof load`.

Open loop (`pipelines.bench.open_loop`): each latency counts from the moment at which its request was due.  Only loopback, and
bounded in count and time: a tool that anyone can start must not be one to start against others.
"""

import http.client
import ipaddress
import json
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from pipelines.bench.knee import DEADLINE_S
from pipelines.bench.open_loop import OpenLoop, Outcome, Tally, poisson
from pipelines.bench.population import Population, body, message, ranked_users, zipf
from pipelines.console import finish, say

MOST_SECONDS, MOST_REQUESTS, MOST_CONNECTIONS = 600.0, 1_000_000, 4096
BODIES = 10_000


def load_command(
    chosen: Settings, url: str | None, rate: float, seconds: float, connections: int, candidates: int, as_json: bool
) -> None:
    """Offer `rate` requests a second for `seconds` s, a line a second, and say what came of them."""
    host, port = loopback(url or f"http://{chosen.host}:{chosen.port}")
    check(rate, seconds, connections, candidates)
    rng = np.random.default_rng()
    messages = questions(chosen.base(), context_of(host, port), candidates, rng)
    say(f"{rate:g} requests/s with {candidates} candidates for {seconds:g} s to {host}:{port}, due at random moments")
    pool = OpenLoop(port, connections, host)
    try:
        tally, cpu_s = pool.run(messages, poisson(rate, seconds, rng), DEADLINE_S, Watch())
    finally:
        pool.close()
    outcome = Outcome.of(tally, rate, seconds, DEADLINE_S, cpu_s / seconds)
    finish({**asdict(outcome), "goodput": outcome.goodput}, as_json, table(outcome))


def loopback(url: str) -> tuple[str, int]:
    """(host, port) of an http URL on loopback.  Raises ExplainedError for any other."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or parts.path not in ("", "/"):
        raise ExplainedError(f"{url!r} is no address of an endpoint; give it as http://127.0.0.1:8000")
    if not _is_loopback(host):
        raise ExplainedError(f"{host} is not this machine: a load test goes to loopback only (127.0.0.1, ::1 or localhost)")
    return host, parts.port or 80


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: nobody knows where it leads
        return False


def check(rate: float, seconds: float, connections: int, candidates: int) -> None:
    """Raises ExplainedError where a number is out of bounds, saying which and what it may be."""
    bounds = {
        "--seconds": (seconds, 1, MOST_SECONDS),
        "--rate": (rate, 1, MOST_REQUESTS / min(max(seconds, 1), MOST_SECONDS)),
        "--connections": (connections, 1, MOST_CONNECTIONS),
        "--candidates": (candidates, 1, 1000),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise ExplainedError(f"{name} is {value:g}; it can be {low:g} to {high:g}")


def context_of(host: str, port: int) -> tuple[str, ...]:
    """Names of the context fields that the endpoint takes.  Raises ExplainedError where none of ours answers."""
    link = http.client.HTTPConnection(host, port, timeout=10)
    try:
        link.request("GET", "/v1/model")
        answer = link.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ExplainedError(f"nobody answers at {host}:{port} ({error}); start the endpoint first: make serve") from error
    finally:
        link.close()
    if answer.status != 200:
        raise ExplainedError(f"{host}:{port} says {answer.status} to /v1/model: {said.decode(errors='replace')[:300]}")
    return tuple(json.loads(said)["context"])


def questions(home: Home, context: tuple[str, ...], candidates: int, rng: np.random.Generator) -> list[bytes]:
    """Requests of the home's users, by Zipf, in contexts of its last day.  Raises ExplainedError where the home is empty."""
    if not Lake.of(home).days("impressions"):
        raise ExplainedError(
            f"{home.root} holds no impressions to ask about: make train; or name what you trained: --size tiny"
        )
    asked = Population.on_last_day(home, context, int(rng.integers(2**31)))
    return [message(body(request)) for request in asked.requests(candidates, zipf(rng, ranked_users(home), BODIES))]


class Watch:
    """Prints what came in the last second."""

    def __init__(self) -> None:
        self._before = (0, 0, 0, 0)

    def __call__(self, seconds: float, tally: Tally) -> None:
        now = (len(tally.latencies_s), tally.shed, tally.failed, tally.unsent)
        ok, shed, failed, unsent = (one - other for one, other in zip(now, self._before, strict=True))
        lately = tally.latencies_s[self._before[0] :]
        p50, p99 = np.percentile(lately, (50, 99)) * 1e3 if lately else (np.nan, np.nan)
        self._before = now
        say(
            f"{seconds:5.0f} s  ok {ok:6,}  p50 {p50:8.2f} ms  p99 {p99:8.2f} ms  "
            f"shed {shed:5,}  failed {failed:4,}  no connection {unsent:5,}"
        )


def table(outcome: Outcome) -> str:
    """The outcome, a line a figure."""
    lines: dict[str, Any] = {
        "offered": f"{outcome.offered:,} requests in {outcome.seconds:g} s",
        "answered 200": f"{outcome.answered:,}",
        f"of these within {DEADLINE_S * 1e3:g} ms": f"{outcome.good:,} ({outcome.good_share:.1%} of what was offered)",
        "goodput": f"{outcome.goodput:,.1f} requests/s",
        "p50, p99 of those answered": f"{_ms(outcome.p50_ms)}, {_ms(outcome.p99_ms)}",
        "shed (429, 503)": f"{outcome.shed:,}",
        "failed": f"{outcome.failed:,}",
        "no free connection": f"{outcome.unsent:,}",
        "no answer by the end": f"{outcome.unanswered:,}",
        "this client": f"{outcome.client_cpu:.0%} of a core; it sent 99% within {_ms(outcome.late_p99_ms)} of their time",
    }
    return "\n".join(f"{name:<28}{value}" for name, value in lines.items())


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} ms"

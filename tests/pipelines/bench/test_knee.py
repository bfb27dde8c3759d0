"""The search for the knee, on servers that are a formula."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.bench.knee import GROWTH, HALVINGS, find, holds
from pipelines.bench.open_loop import Outcome


def outcome(rate: float, good: int, offered: int = 1000) -> Outcome:
    return Outcome(rate, 1.0, offered, good, good, 0, offered - good, 0, 0, 1.0, 2.0, 0.1, 0.1)


def queue(capacity: float):
    """A server whose goodput falls off once it is asked for more than it can do."""

    def probe(rate: float) -> Outcome:
        return outcome(rate, 1000 if rate <= capacity else int(1000 * capacity / rate * 0.9))

    return probe


@settings(max_examples=200, deadline=None)
@given(st.floats(20, 50_000), st.floats(5, 50_000))
def test_the_knee_is_found_from_wherever_the_search_starts(capacity: float, first: float) -> None:
    ratio = capacity / first
    if ratio > GROWTH**18:
        first = capacity / GROWTH**18  # more steps than the search takes
    best, probes = find(queue(capacity), first)
    assert holds(best)
    assert best in probes
    step = GROWTH ** (0.5**HALVINGS)
    assert capacity / step / 1.0001 <= best.rate <= capacity


def test_a_rate_fails_only_when_it_fails_twice() -> None:
    """One bad second of the machine at every rate: the knee is where it was."""
    asked: dict[float, int] = {}

    def once_bad(rate: float) -> Outcome:
        asked[rate] = asked.get(rate, 0) + 1
        return outcome(rate, 0) if asked[rate] == 1 else queue(1000)(rate)

    best, _ = find(once_bad, 500)
    assert 900 < best.rate <= 1000


def test_a_server_that_answers_nothing_in_time_has_no_knee() -> None:
    with pytest.raises(ValueError, match="not even"):
        find(lambda rate: outcome(rate, 0), 100)


def test_what_was_shed_or_lost_counts_against_a_rate() -> None:
    assert holds(outcome(1.0, 990))
    assert not holds(outcome(1.0, 989))

"""When a micro-batch pays, from figures that are made up."""

import pytest

from pipelines.bench.closed_loop import Closed
from pipelines.bench.contest import Cell
from pipelines.bench.micro_batch import pays


def cell(*cpu_us: float, p99_ms: float = 10.0) -> Cell:
    """A setting's rounds of 1,000 requests in a second, each with this processor time a request."""
    return Cell([Closed("wrk", 1000, 1.0, 5.0, p99_ms, 0.1) for _ in cpu_us], [us / 1e3 for us in cpu_us])


def test_it_pays_from_the_smallest_that_saves_and_the_best_is_named() -> None:
    row = {1: cell(1000, 1020), 2: cell(940, 955), 4: cell(900, 940), 8: cell(700, 720, p99_ms=15.0), 16: cell(720, 730)}
    found = pays(row)
    assert found == {"from": 4, "best": 8, "cpu_us": pytest.approx(710 / 1010, abs=1e-3), "rps": 1, "p50_ms": 1, "p99_ms": 1.5}


@pytest.mark.parametrize("row", [{1: cell(1000)}, {1: cell(1000, 1500), 2: cell(800, 960)}, {1: cell(1000), 2: cell(1200)}])
def test_what_one_round_denies_does_not_pay(row: dict[int, Cell]) -> None:
    assert pays(row) is None

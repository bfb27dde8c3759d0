"""How much a server takes: the largest rate at which it still answers what it is asked, and what happens beyond.  Pure; used by
`pipelines.bench.serve`.
"""

from collections.abc import Callable

from pipelines.bench.open_loop import Outcome

DEADLINE_S = 0.05  # of a ranking call inside an ad request, which as a whole has some 100 ms
SHARE = 0.99
GROWTH = 1.25
HALVINGS = 3
MOST_STEPS = 20
FLOOR = 1.0  # requests a second


def holds(outcome: Outcome) -> bool:
    """Whether 99% of all that was offered was answered 200 within the deadline: so p99 is below the deadline, and nothing is
    shed or lost."""
    return outcome.good_share >= SHARE


def find(probe: Callable[[float], Outcome], first: float) -> tuple[Outcome, list[Outcome]]:
    """(the outcome at the knee, every probe made) where the knee is the largest rate found to hold.

    From `first` the rate is lowered by GROWTH until one holds, then raised by GROWTH until one fails; the step between is
    halved (geometrically) HALVINGS times.  A rate has failed when it failed twice: one bad second of a shared machine is not
    the server's.  Raises ValueError where no rate above FLOOR holds."""
    probes: list[Outcome] = []

    def tried(rate: float) -> Outcome:
        for _ in range(2):
            probes.append(probe(rate))
            if holds(probes[-1]):
                break
        return probes[-1]

    best = tried(first)
    while not holds(best):
        if best.rate / GROWTH < FLOOR:
            raise ValueError(f"not even {best.rate:g} requests a second were answered in time: {best}")
        best = tried(best.rate / GROWTH)
    failed = _failed_above(best, probes)
    for _ in range(MOST_STEPS):
        if failed is not None:
            break
        found = tried(best.rate * GROWTH)
        if holds(found):
            best = found
        else:
            failed = found.rate
    for _ in range(HALVINGS if failed is not None else 0):
        assert failed is not None
        found = tried((best.rate * failed) ** 0.5)
        if holds(found):
            best = found
        else:
            failed = found.rate
    return best, probes


def _failed_above(best: Outcome, probes: list[Outcome]) -> float | None:
    return min((p.rate for p in probes if p.rate > best.rate and not holds(p)), default=None)

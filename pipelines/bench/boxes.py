"""From processor time a request to machines: the arithmetic to 100,000 requests a second.  Pure; used by
`pipelines.bench.serve` and the answer `capacity`."""

import math

TARGET = 100_000  # requests a second
BUSY = 0.5  # share of a core that may be used on average: the rest is for peaks and for a lost zone
CORES_A_BOX = 32


def boxes(cpu_us: float, target: int = TARGET) -> dict[str, float]:
    """Requests a second that a core takes, cores that `target` requests a second keep busy, and boxes that hold them."""
    cores = target * cpu_us / 1e6
    return {"rps_a_core": 1e6 / cpu_us, "cores": cores, "boxes": math.ceil(cores / BUSY / CORES_A_BOX)}

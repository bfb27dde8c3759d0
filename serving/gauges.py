"""How a server process stands at a moment: what goes up and down, beside what `serving.counts` only adds up.

Used by `serving.metrics`; `serving.exposition` says for each what it is of several workers.
"""

import os
from functools import cache
from pathlib import Path
from time import monotonic

import msgspec
from prometheus_client import ProcessCollector

from serving.counts import Counts

FRESH_S = 5.0  # workers tell once a second; whoever has not for so long is gone, and only its counts remain


Model = tuple[str, str, str]  # hash, encoder's hash, family


class Gauges(msgspec.Struct):
    """Of one process."""

    at_s: float = msgspec.field(default_factory=monotonic)  # when: the machine's clock since its start, one for all processes
    models: tuple[Model, ...] = ()  # that answer, the champion first
    rollout: int = 0  # number of the rollout document that it goes by; 0: there is none yet
    refused: int = 0  # models of the document that may not answer
    shadows_behind_s: float = 0.0  # since the scorer of shadows last had everything; 0: there are none
    sent_back: int = 0  # canaries that were ended without anybody asking, as the audit log says
    ages_s: dict[str, float] = {}  # by view
    max_ages_s: dict[str, float] = {}
    unsynced_s: dict[str, float] = {}  # by log
    disk_free_bytes: int | None = None
    process: dict[str, float] = {}  # Prometheus' standard names

    @property
    def fresh(self) -> bool:
        """Whether its process still tells."""
        return monotonic() - self.at_s < FRESH_S


class Told(msgspec.Struct):
    """What worker `number` counted, and how it stands."""

    number: int
    counts: Counts
    gauges: Gauges


def process() -> dict[str, float]:
    """This process, by the names that Prometheus' clients share: CPU and start in seconds, memory in bytes, open files."""
    return {sample.name: sample.value for family in _collector().collect() for sample in family.samples}


@cache
def _collector() -> ProcessCollector:
    return ProcessCollector(registry=None)


def disk_free_bytes(folder: Path) -> int | None:
    """What is left on the disk of a folder for who is not root; None where the folder is gone, which its log will say."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize

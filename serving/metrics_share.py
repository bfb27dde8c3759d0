"""What several workers counted, in one answer to /metrics: the scrape reaches one of them, whichever the kernel chooses.

Each writes what it counted and how it stands to a file of its own once a second, and reads the others' files when asked; one
that is started again counts on from its file, so that counters never fall.  Called by `serving.serve` where there are several.
"""

import os
import threading
from pathlib import Path

import msgspec

from infra.home import Home
from serving.gauges import Told
from serving.metrics import ServingMetrics

EVERY_S = 1.0


class SharedMetrics:
    """The counts of worker `number` among `count`, in files of the home."""

    def __init__(self, home: Home, number: int, count: int) -> None:
        self._files = [home.writing(home.run / f"metrics-{i}.msgpack") for i in range(count)]
        self._number = number
        before = _read(self._files[number])
        self.metrics = ServingMetrics(self._of_others, before.counts if before else None, number, count)
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="metrics", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write a last time."""
        self._stop.set()
        self._writer.join()
        self._write()

    def _of_others(self) -> list[Told]:
        found = [_read(file) for number, file in enumerate(self._files) if number != self._number]
        return [told for told in found if told is not None]

    def _write_on(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._write()

    def _write(self) -> None:
        file = self._files[self._number]
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_bytes(msgspec.msgpack.encode(self.metrics.now()))
        os.replace(beside, file)


def forget(home: Home) -> None:
    """Begin from nothing: called once before the workers start."""
    for file in home.run.glob("metrics-*"):
        file.unlink()


def _read(file: Path) -> Told | None:
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=Told)
    except FileNotFoundError:
        return None

"""Models that take their time, and a service of the small world with one of them."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from small_world import NOW_US, DictSource, TinyArtefact
from test_app import service

from features.batch import Array
from infra.clock import FixedClock
from infra.home import Home
from serving.assignment import Assignment
from serving.policy import GreedyPolicy
from serving.prediction_log import PredictionLog
from serving.rank_handler import Service
from serving.scorer import Scorer


@dataclass(frozen=True)
class SlowArtefact(TinyArtefact):
    """Scores when its gate is opened, or after so many seconds."""

    seconds: float = 0.02
    began: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def score(self, columns: Mapping[str, Array]) -> Array:
        self.began.set()
        self.gate.wait(self.seconds)
        return super().score(columns)


@dataclass(frozen=True)
class PausingArtefact(TinyArtefact):
    """Quick enough, but for one pause in which all who wait get late."""

    seconds: float = 0.005
    pause_s: float = 1.0
    calls: Iterator[int] = field(default_factory=count)

    def score(self, columns: Mapping[str, Array]) -> Array:
        time.sleep(self.pause_s if next(self.calls) == 10 else self.seconds)
        return super().score(columns)


def slow(home: Home, artefact: TinyArtefact) -> Service:
    """It answers with this model."""
    made = service(home)
    made.scorer.close()
    scorer = Scorer(DictSource(), artefact, GreedyPolicy(), Assignment("s"), PredictionLog(home), FixedClock(NOW_US))
    return Service(scorer, made.context, made.description)

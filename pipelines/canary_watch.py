"""The guard at work: reads the two logs that the endpoint writes, looks at the canary every few seconds, and takes it out.

`python -m pipelines.canary_watch` is run by `clickproof serve` (`serving.companions`) while there is a canary.  It needs
nothing from the server but its logs, so it counts for all workers and both doors.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np

from features.ids import derived_id
from infra import child, logs
from infra.clock import SystemClock
from infra.home import Home
from infra.settings import Settings
from monitoring.canary import Verdict, judge
from monitoring.canary.counting import Answered, Counting
from pipelines.canary_guard import bands_of, take_out
from serving import event_log, prediction_log, rollout_store
from serving.event_log import Clicks
from serving.prediction_log import Column, unpack
from serving.rollout import CANARY, Rollout, Router
from serving.segment_log import Tail

LOOK_S = 2.0

_log = logging.getLogger("clickproof.guard")


class _Asked(msgspec.Struct):
    """The fields of `serving.prediction_log.Record` that the guard needs: the others are skipped, not decoded."""

    request_id: int
    time_us: int
    user_id: int
    arm: str
    artefact: str
    took_us: int
    shown: Column
    p: Column


class Guard:
    """Follows the logs of a home."""

    def __init__(self, home: Home, chosen: Settings) -> None:
        self._home, self._chosen = home, chosen
        self._predictions = Tail(home.log, prediction_log.SUFFIX)
        self._events = Tail(home.events, event_log.SUFFIX)
        self._decode, self._decode_clicks = msgspec.msgpack.Decoder(_Asked).decode, msgspec.msgpack.Decoder(Clicks).decode
        self._watched: tuple[object, ...] = ()
        self._counting: Counting | None = None
        self._since = 0.0

    def look(self) -> Verdict | None:
        """Count what is new, and judge; a canary that is to go back has gone when this returns.  None where there is none."""
        rollout = rollout_store.read(self._home)
        self._follow(rollout)
        answered, clicked = list(self._answered()), list(self._clicked())
        if self._counting is None or rollout.canary is None:
            return None
        self._counting.answered(answered)
        self._counting.clicked(clicked)
        self._counting.label()
        verdict = judge(self._counting.canary, self._counting.champion, monotonic() - self._since, bands_of(self._chosen))
        if verdict.action == "roll back":
            secret = self._chosen.webhook_url.get_secret_value()
            at_us = self._counting.now_us or SystemClock().now_us()
            entry = take_out(self._home, rollout.canary.artefact, verdict, at_us, secret)
            if entry is not None:
                _log.error("the canary %s was taken out: %s", rollout.canary.artefact, verdict.why)
        return verdict

    def _follow(self, rollout: Rollout) -> None:
        """Begin anew where another canary runs, or the same one at another share or beside another champion."""
        canary = rollout.canary
        now = () if canary is None else (canary.artefact, canary.share, canary.since_us, rollout.champion, rollout.experiment)
        if now == self._watched:
            return
        self._watched, self._since, self._counting = now, monotonic(), None
        if canary is not None:
            arms = [arm for arm, artefact in Router(rollout).artefacts.items() if artefact == rollout.champion]
            self._counting = Counting(CANARY, canary.artefact, arms, rollout.champion)
            _log.info("guarding the canary %s at %.1f%%", canary.artefact, 100 * canary.share)

    def _answered(self) -> Iterator[Answered]:
        for payload, _, _ in self._predictions.new():
            found = self._decode(payload)
            slots = np.arange(len(unpack(found.shown)))
            ids = derived_id(np.full(len(slots), found.request_id), slots)
            yield Answered(found.arm, found.artefact, found.user_id, found.time_us, found.took_us, ids, unpack(found.p))

    def _clicked(self) -> Iterator[tuple[int, int]]:
        for payload, _, _ in self._events.new():
            yield from ((click.impression_id, click.time_us) for click in self._decode_clicks(payload).clicks)


def main() -> None:
    """Guard until told to stop."""
    chosen, order = child.ordered()
    logs.begin(chosen.log_format)
    guard = Guard(Home(Path(order["root"])), chosen)
    was_ready = False
    while True:
        verdict = guard.look()
        ready = verdict is not None and verdict.action == "ready"
        if verdict is not None and ready and not was_ready:
            _log.info("the canary may be promoted (clickproof rollout promote --why TEXT): %s", verdict.why)
        was_ready = ready
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()

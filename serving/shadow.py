"""Shadows at work: score every request that was answered, from the features that were logged for it, and answer nobody.

`python -m serving.shadow` is run by `clickproof serve` (`serving.companions`) while there is a shadow.  It is a process of its
own with a lower priority, and reads the prediction log as it is written: a slow shadow falls behind and slows no answer, and
one that was restarted goes on where it was.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from features.blocks import Blocks, Names
from infra import child, logs
from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact, ArtefactError, load
from models.engines.choice import use_fastest
from serving import prediction_log, rollout_store
from serving.prediction_log import Column, Record, names_of, pack, unpack
from serving.prediction_rows import layout
from serving.segment_log import SegmentLog, Tail
from serving.shadow_log import SUFFIX, ShadowRecord, caught_up, progress

LOOK_S = 0.2
TOGETHER = 32  # requests scored with one call of the model
NICE = 10  # added to the process' niceness: answers come first

_log = logging.getLogger("clickproof.shadow")


class _Read(NamedTuple):
    """A request from the prediction log, and where in it the next one begins."""

    record: Record
    segment: str
    behind: int


class Shadows:
    """Follows the prediction log of a home with the shadows of its rollout document."""

    def __init__(self, home: Home, chosen: Settings) -> None:
        """A shadow goes on behind what it scored last, a new one begins with what comes from now on."""
        self._home, self._threads = home, chosen.threads
        ends, scored = Tail(home.log, prediction_log.SUFFIX).offsets, progress(home)
        self._begin = {name: {**ends, **scored.get(name, {})} for name in rollout_store.read(home).shadows}
        first = {segment: min((begin[segment] for begin in self._begin.values()), default=end) for segment, end in ends.items()}
        self._tail = Tail(home.log, prediction_log.SUFFIX, first)
        self._log = SegmentLog(home, home.shadows, SUFFIX)
        self._models: dict[str, Artefact] = {}
        self._bad: set[str] = set()  # that could not be loaded: said once
        self._stamp: object = ()
        self._decode = msgspec.msgpack.Decoder(Record).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def look(self) -> int:
        """Score what is new; the number of requests that were scored."""
        self._follow()
        scored = 0
        new = (_Read(self._decode(payload), segment, behind) for payload, segment, behind in self._tail.new())
        while together := list(islice(new, TOGETHER)):
            alike: dict[object, list[_Read]] = {}
            for one in together:
                if one.record.logged.shape == one.record.s.shape:  # logged while there was a shadow
                    alike.setdefault(layout(one.record), []).append(one)
            for same in alike.values():
                for model in self._models.values():
                    begin = self._begin.get(model.hash, {})
                    mine = [one for one in same if one.behind > begin.get(one.segment, 0)]
                    if mine:
                        self._score(model, mine)
                scored += len(same)
        caught_up(self._home)
        return scored

    def _follow(self) -> None:
        stamp = rollout_store.stamp(self._home)
        if stamp == self._stamp:
            return
        shadows = rollout_store.read(self._home).shadows
        self._stamp = stamp
        self._models = {name: model for name, model in self._models.items() if name in shadows}
        for name in shadows:
            if name not in self._models and name not in self._bad:
                try:
                    model = load(self._home.artefacts, name, threads=self._threads)
                    use_fastest(model.model)
                    self._models[name] = model
                except ArtefactError as error:
                    self._bad.add(name)
                    _log.error("the shadow %s scores nothing: %s", name, error)

    def _score(self, model: Artefact, requests: Sequence[_Read]) -> None:
        """Score requests with the same columns, and write that down."""
        counts = [one.record.s.shape[0] for one in requests]
        try:
            s = model.score(columns_of([one.record for one in requests]))
        except Exception:  # noqa: BLE001 - a shadow may be broken in any way; it answers nobody
            if model.hash not in self._bad:
                self._bad.add(model.hash)
                _log.exception("the shadow %s fails", model.hash)
            s = np.full(sum(counts), np.nan, np.float32)
        low = 0
        for (record, segment, behind), rows in zip(requests, counts, strict=True):
            mine, shown = s[low : low + rows], unpack(record.shown)
            low += rows
            p = model.probability(mine[shown], np.arange(len(shown))).astype(np.float32)
            self._log.append(
                self._encode(
                    ShadowRecord(
                        record.request_id,
                        record.time_us,
                        model.hash,
                        model.encoder_hash,
                        record.ad_id,
                        pack(mine.astype(np.float32)),
                        record.shown,
                        pack(p),
                        segment,
                        behind,
                    )
                )
            )


def columns_of(records: Sequence[Record]) -> Mapping[str, np.ndarray]:
    """The features of all candidates, in their order, of requests that log the same columns, one behind the other."""
    order = [np.argsort(unpack(record.logged)) for record in records]

    def together(columns: Sequence[Column]) -> np.ndarray:
        return np.concatenate([unpack(column)[at] for column, at in zip(columns, order, strict=True)])

    first = records[0]
    return Blocks(
        Names(names_of(first.numbers), names_of(first.whole)),
        together([record.numbers.values for record in records]),
        together([record.whole.values for record in records]),
        {name: together([record.others[name] for record in records]) for name in first.others},
    )


def main() -> None:
    """Score until told to stop."""
    chosen, order = child.ordered()
    logs.begin(chosen.log_format)
    os.nice(NICE)
    shadows = Shadows(Home(Path(order["root"])), chosen)
    try:
        while True:
            if shadows.look() == 0:
                time.sleep(LOOK_S)
    finally:
        shadows.close()


if __name__ == "__main__":
    main()

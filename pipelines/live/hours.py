"""The running system's hours as `Window`s: what monitors are handed, and nothing that a drill knows.

Holds the prediction log of the last days, so that a click finds the prediction it answers.  Called by `pipelines.live.system`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import I64
from features.catalogue import View
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import DAY_US
from infra.home import Home
from models.artefact import Artefact, ArtefactError, load
from monitoring.window import Window
from pipelines.live.intake import Taken, refused_by_rule
from pipelines.sources.contract import SourceSpec
from pipelines.windows import OLD_SAMPLE, books_of, feature_arrays, joined, log_of, offline_of, rescored_of, sample_rows
from serving.scorer import fetch

KEPT_US = 3 * DAY_US  # of the log, to find the prediction behind a click: the attribution window, and what may be late


class Hours:
    """Makes windows, hour after hour."""

    def __init__(
        self, home: Home, spec: SourceSpec, service: str, plan: Mapping[str, float], before: Iterable[pa.Table] = ()
    ) -> None:
        """`before` are the logs of windows that were made earlier."""
        self._spec, self._plan = spec, dict(plan)
        self._then = AsOfSource(home, spec.entities, spec.context, service)
        self._day_before = AsOfSource(home, spec.entities, spec.context, service, stamps=_a_day_later)
        self._logs = list(before)
        self._open: list[tuple[Window, pa.Table, pa.Table]] = []  # to be replayed: window, sampled predictions, impressions

        @lru_cache
        def model(name: str) -> Artefact | None:
            try:
                return load(home.artefacts, name)
            except ArtefactError:  # a hash that stands in the log and nowhere else: for the exact tier to say
                return None

        self._model = model

    def close(self, start_us: int, end_us: int, predictions: pa.Table, shown: pa.Table, clicks: pa.Table, taken: Taken) -> None:
        """Take in an hour; its window comes with the next `replayed`.

        `predictions` are rows of the prediction log made in the hour; `shown` the impressions accepted in it; `clicks` those
        that reached the label join in it; `taken` what became of the hour's deliveries.
        """
        rows = predictions.filter(pc.greater_equal(predictions["slot"], 0))
        log = log_of(rows)
        self._logs = [old for old in self._logs if old.num_rows and old["time"][-1].as_py() >= end_us - KEPT_US] + [log]
        found = joined(clicks, pa.concat_tables(self._logs, promote_options="default"))
        books = [(stream, stage, count) for (stream, stage), count in taken.counts.items() if stream not in ("users", "ads")]
        books += [("predictions", "accepted", log.num_rows), ("clicks", "joined", found.num_rows)]
        refused = refused_by_rule(taken.refused)
        window = Window(start_us, end_us, log, found, books=books_of(books), refused=refused, plan=self._plan)
        sample = rows.take(pa.array(sample_rows(rows["impression_id"].to_numpy())))
        self._open.append((window, sample, shown))

    def replayed(self) -> list[Window]:
        """Windows of the hours taken in since the last call, a sample of each recomputed from the events and the store as it
        was, and re-scored from what was logged.  Several hours at once cost little more than one."""
        taken, self._open = self._open, []
        if not taken:
            return []
        ids = [rows["impression_id"].combine_chunks() for _, rows, _ in taken]
        shown = pa.concat_tables([impressions for _, _, impressions in taken])
        offline = self._recomputed(self._then, shown, pa.concat_arrays(ids))
        few = [part.take(pa.array(sample_rows(part.to_numpy(), OLD_SAMPLE))) for part in ids]
        day_old = self._recomputed(self._day_before, shown, pa.concat_arrays(few))
        return [
            replace(
                window,
                offline=offline.filter(pc.is_in(offline["id"], value_set=part)),
                day_old=day_old.filter(pc.is_in(day_old["id"], value_set=part)),
                rescored=rescored_of(rows, self._model),
            )
            for (window, rows, _), part in zip(taken, ids, strict=True)
        ]

    def _recomputed(self, source: AsOfSource, shown: pa.Table, ids: pa.Array) -> pa.Table:
        """Features of impressions, from the events and the snapshots."""
        events = shown.filter(pc.is_in(shown["impression_id"], value_set=ids))
        asked = from_impressions(events, self._spec.context)
        columns = fetch(source, asked).columns
        return offline_of(pa.table({"impression_id": asked.row_id, **feature_arrays(columns)}))


def _a_day_later(_: View, available_us: I64, event_us: I64) -> tuple[I64, I64]:
    """Stamps with which a join sees the store as it stood a day earlier."""
    return np.asarray(available_us + DAY_US), event_us

"""What the store itself says about impressions: every mature label, features recomputed for a sample, stored rows rebuilt.

All of it belongs to the store and to no export, so it is read once and shared by the audits of all exports made from it.
Called by `monitoring.gate.judge` and by the gauntlet.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import snapshots
from features.batch import RequestBatch
from features.catalogue import VIEWS, Entity
from features.ids import uniform
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from monitoring.gate.audit import Account
from monitoring.gate.columns import I64, Array
from monitoring.gate.rebuild import Rebuilt, Wrong, compare, rebuild
from monitoring.gate.replay import Replayed
from monitoring.gate.totals import Known

REPLAY_A_DAY = 2000  # impressions of each class recomputed for each event day, by hashed id
LATER_US = (HOUR_US, DAY_US, 3 * DAY_US)  # how much later a value may have been taken that should not have been known yet
SALT = 0x5245504C


class Ledger:
    """The account of one home for a span of event days."""

    def __init__(
        self,
        home: Home,
        entities: Sequence[Entity],
        context: Sequence[str],
        service: str,
        span: tuple[int, int],
        as_of_us: int,
        window_us: int,
        rebuilt: Rebuilt | None = None,
    ) -> None:
        """`span` is [first_us, end_us) of whole event days; labels are as of `as_of_us` with an attribution window of
        `window_us`.  `rebuilt`, where another home with the same events had it made, saves making it again."""
        self.home, self.span, self.as_of_us, self.window_us = home, span, as_of_us, window_us
        self.source = AsOfSource(home, entities, context, service)
        self.context, self.entities = tuple(context), tuple(entities)
        self._rebuilt = rebuilt

    @property
    def account(self) -> Account:
        """Everything, for audits."""
        wrong = self.wrong
        return Account(self.known, self.replayed, wrong.findings, wrong.doubted)

    @property
    def slow(self) -> list[str]:
        """Features refreshed by the day: fixed before the request."""
        return [f.name for view in VIEWS if view.refresh == "batch" and view in self.source.views for f in view.features]

    @cached_property
    def known(self) -> Known:
        """Mature impressions of the span and whether each was clicked, in SQL straight from the lake.

        Kept apart from `features.labels` and the assembly on purpose: a control total that shares their code shares their
        mistakes."""
        lake = Lake.of(self.home)
        with duckdb.connect() as connection:
            connection.register("impressions", lake.scan("impressions"))
            connection.register("clicks", lake.scan("clicks"))
            found = connection.execute(
                """
                WITH shown AS (
                    SELECT impression_id, epoch_us(event_timestamp) AS shown_us, user_id, slot FROM impressions
                    WHERE epoch_us(event_timestamp) >= $first AND epoch_us(event_timestamp) < $end
                      AND epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) + $window <= $as_of
                ), clicked AS (
                    SELECT DISTINCT impression_id FROM clicks JOIN shown USING (impression_id)
                    WHERE epoch_us(arrived_at) <= $as_of AND epoch_us(event_timestamp) - shown_us BETWEEN 0 AND $window
                )
                SELECT impression_id AS row_id, shown_us, coalesce(user_id, -1)::BIGINT AS user, slot::BIGINT AS slot,
                       (clicked.impression_id IS NOT NULL)::TINYINT AS label
                FROM shown LEFT JOIN clicked USING (impression_id) ORDER BY 1
                """,
                {"first": self.span[0], "end": self.span[1], "as_of": self.as_of_us, "window": self.window_us},
            ).fetchnumpy()
        return Known(*(np.asarray(found[name]) for name in ("row_id", "shown_us", "user", "slot", "label")))

    @cached_property
    def requests(self) -> RequestBatch:
        """The requests behind the sample, in order of impression id."""
        known = self.known
        luck = uniform(known.row_id, SALT)
        # Of each class and day the rows with the least luck: leaks change rows that were clicked, so half of the sample are.
        group = known.time_us // DAY_US * 2 + known.label
        order = np.lexsort((luck, group))
        starts = np.flatnonzero(np.append(True, np.diff(group[order]) != 0)) if len(order) else np.zeros(0, np.int64)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        chosen = np.sort(known.row_id[order[rank < REPLAY_A_DAY]])
        days = [day_name(at) for at in range(self.span[0], self.span[1] + DAY_US, DAY_US)]
        table = Lake.of(self.home).read("impressions", days=days)
        table = table.filter(pc.is_in(table["impression_id"], pa.array(chosen))).sort_by("impression_id")
        return from_impressions(table, self.context)

    @cached_property
    def replayed(self) -> Replayed:
        """Features of the sample as they could be seen at each request."""
        asked = self.requests
        return Replayed(asked.row_id, self.source.fetch(asked).columns, self._later)

    def _later(self, row_id: I64) -> list[Mapping[str, Array]]:
        """Features of some sampled impressions as they could be seen at later moments."""
        asked = self.requests
        rows = np.searchsorted(asked.row_id, row_id)
        context: dict[str, Any] = {name: values[rows] for name, values in asked.context.items()}
        return [
            self.source.fetch(RequestBatch(row_id, asked.time_us[rows] + by, asked.user_id[rows], asked.ad_id[rows], context))
            .columns
            for by in LATER_US
        ]  # fmt: skip

    @cached_property
    def rebuilt(self) -> Rebuilt:
        """Rows that the store should hold."""
        return self._rebuilt or rebuild(self.home, self._days, "placement" in self.context, self.entities)

    @cached_property
    def wrong(self) -> Wrong:
        """Stored rows that are not what raw events say."""
        return compare(self.home, self.rebuilt, self._days)

    @property
    def _days(self) -> list[str]:
        """Arrival days whose rows the span's requests can see and that are complete."""
        wanted = {day_name(at) for at in range(self.span[0] - DAY_US, self.span[1], DAY_US)}
        return [
            day for day in snapshots.days(self.home, "user_recent" if "user" in self.entities else "ad_daily") if day in wanted
        ]

"""The system as it runs: five minutes of requests, answers, arrivals, ingestion and fresh features at a time.

The same steps warm the monitors (`ask` scores in the process, nothing waits) and make the drill (`ask` is the real endpoint
over HTTP, at a chosen speed).  Everything is written to one branch.  Called by `pipelines.live.reference` and by
`pipelines.live.run`.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.event_rules import event_schema
from features.recent import TICK_US
from features.schemas import CLICKS, TIME
from infra.clock import DAY_US, HOUR_US, day_name
from infra.home import Home
from infra.lake import Lake
from monitoring.window import Window
from pipelines.live.arrivals import OnTheWay
from pipelines.live.ask import Ask
from pipelines.live.fresh import Freshness
from pipelines.live.hours import Hours
from pipelines.live.injection import Fault, Injection
from pipelines.live.intake import Intake, Taken
from pipelines.live.market import clicks_after, requests_after
from pipelines.plant.clicks import Waiting
from pipelines.sources.contract import Requests, Slates
from pipelines.sources.history import ANSWERS, late_events, save_state
from pipelines.sources.world.market import World
from pipelines.sources.world.source import WorldSource
from serving.rollout import A_A, shares

PLAN = shares(A_A)


class System:
    """A branch of a home whose world goes on."""

    def __init__(self, home: Home, source: WorldSource, service: str, logs: Iterable[pa.Table] = ()) -> None:
        """`home` is written: give a branch.  It goes on where the home's events end, at a midnight; `logs` are those of the
        windows before."""
        self.home, self.spec = home, source.spec
        self.fault = Fault()
        self.world: World = source.resume(home)
        self.now_us = self.world.now_us
        self._coming = OnTheWay(late_events(home))
        self._intake = Intake(home, source.spec, self.now_us)
        self.fresh = Freshness(home, source.spec, self.fault, self.now_us)
        self._hours = Hours(home, source.spec, service, PLAN, logs)
        self._profiles = {"users": self.world.users(source.config.horizon_us), "ads": self.world.ads(source.config.horizon_us)}
        self._held_back = {stream: Waiting() for stream in ANSWERS}
        self._taken = Taken()
        self._labelled: list[pa.Table] = []  # clicks on their way into the label join
        self._logged: list[pa.Table] = []  # the hour's predictions
        self.lock = threading.RLock()  # held by whoever moves rows; not while the endpoint is asked or waited for

    def step(self, ask: Ask, windows_us: int = HOUR_US) -> list[Window]:
        """Five minutes; the windows of the hours that are over, each time that `windows_us` (hours, up to a day) are."""
        start_us, end_us = self.now_us, self.now_us + TICK_US
        with self.lock:
            self._meet_newcomers(start_us, end_us)
        for asked in self.world.requests(end_us):
            asked = requests_after(asked, self.fault, self.world)
            self._meet(asked, start_us, end_us)
            response = clicks_after(self.world.respond(self._answered(asked, ask, start_us)), self.fault)
            self._coming.add({stream: getattr(response, stream) for stream in ANSWERS})
        ask.wait(end_us)
        arrived = self._coming.until(end_us)
        arrived["clicks"] = ask.clicked(arrived["clicks"])
        with self.lock:
            for at_us in self.fresh.moments(start_us, end_us):  # those after the last request
                self.fresh.push(at_us)
            self.now_us = end_us
            self._arrive(end_us, arrived)
            self._logged += ask.logged(self.fault)
            if end_us % HOUR_US == 0:
                self._close_hour()
            if end_us % DAY_US == 0:
                self._intake.land(end_us - DAY_US)
                self.fresh.midnight(end_us)
                save_state(self.home, self.world, self._coming.waiting)
            return self._hours.replayed() if end_us % windows_us == 0 else []

    def _arrive(self, end_us: int, arrived: Mapping[str, pa.Table]) -> None:
        """What has arrived goes through ingestion, into features and into the label join."""
        delivered = {stream: self._delivered(stream, rows, end_us) for stream, rows in arrived.items()}
        taken = self._intake.take(delivered, end_us)
        accepted = {stream: rows[0] for stream, rows in taken.accepted.items()}
        self.fresh.arrived(end_us, accepted)
        self._labelled.append(self.fault.rows("labels", "clicks", accepted["clicks"]))
        self._taken.add(taken)

    def _answered(self, asked: Requests, ask: Ask, start_us: int) -> Slates:
        """Slates of requests, each asked after the store has what is available by then."""
        with self.lock:
            cuts = [at for at in self.fresh.moments(start_us, int(asked.time_us[-1]) + 1) if at <= asked.time_us[-1]]
        places = [0, *np.searchsorted(asked.time_us, cuts).tolist(), len(asked)]
        parts = []
        for number, (low, high) in enumerate(pairwise(places)):
            if number:
                with self.lock:
                    self.fresh.push(cuts[number - 1])
            if high > low:
                parts.append(ask(rows_of(asked, low, high)))
        return replace(
            parts[0],
            requests=asked,
            shown=np.concatenate([part.shown for part in parts]),
            propensity=np.concatenate([part.propensity for part in parts]),
            randomised=np.concatenate([part.randomised for part in parts]),
        )

    def _delivered(self, stream: str, rows: pa.Table, end_us: int) -> pa.Table:
        """What a stream delivers of what arrived; rows that a fault holds back come in their time."""
        return self._held_back[stream].due(self.fault.rows("events", stream, rows), end_us)

    def _meet(self, asked: Requests, start_us: int, end_us: int) -> None:
        """Ads that a fault shows before their time: their profiles land just before the first request for them."""
        if self.fault.at("traffic", "candidates") is None:
            return
        ads = self._profiles["ads"]
        arrives_us = pc.cast(ads["arrived_at"], pa.int64()).to_numpy()
        rows = ads.filter(pa.array(np.isin(ads["ad_id"].to_numpy(), asked.candidates) & (arrives_us >= end_us)))
        if rows.num_rows:
            for name, at_us in (("event_timestamp", start_us - HOUR_US), ("arrived_at", start_us)):
                place = rows.schema.get_field_index(name)
                rows = rows.set_column(place, rows.schema.field(place), pa.array(np.full(rows.num_rows, at_us)).cast(TIME))
            with self.lock:
                self.fresh.profiles("ads", self._intake.take({"ads": rows}, end_us).accepted["ads"][0])

    def _meet_newcomers(self, start_us: int, end_us: int) -> None:
        """Users and ads that sign up in these five minutes: each can be read from the moment it arrives."""
        for stream, rows in self._profiles.items():
            at = pc.cast(rows["arrived_at"], pa.int64()).to_numpy()
            arrived = rows.filter(pa.array((at >= start_us) & (at < end_us)))
            if arrived.num_rows:
                taken = self._intake.take({stream: arrived}, end_us)
                self.fresh.profiles(stream, taken.accepted[stream][0])
                self._taken.add(taken)

    def _close_hour(self) -> None:
        """The hour's rows to the lake, and as a window in the making."""
        self.fresh.save()
        taken, self._taken = self._taken, Taken()
        clicks, self._labelled = pa.concat_tables([CLICKS.empty_table(), *self._labelled]), []
        predictions = pa.concat_tables(self._logged, promote_options="default")
        self._logged = [predictions.slice(0, 0)]  # an hour may have none; the columns are the same
        day = day_name(self.now_us - HOUR_US)
        rows = predictions.drop_columns("day") if "day" in predictions.column_names else predictions
        rows = rows.append_column(pa.field("day", pa.string(), nullable=False), pa.repeat(day, rows.num_rows))
        Lake.of(self.home).append("predictions", rows, txn=("control-room", self.now_us), widen=True)
        shown = taken.rows("impressions", event_schema("impressions", self.spec.context))
        self._hours.close(self.now_us - HOUR_US, self.now_us, predictions, shown, clicks, taken)

    def begin(self, injection: Injection | None, at_us: int) -> None:
        """A bug begins to act here, or the last one ends: jobs whose rows it rewrites run again at once.  From any thread."""
        with self.lock:
            before, self.fault.now = self.fault.now, injection
            for one in (before, injection):
                if one is not None and one.bug.stage in ("feature", "store"):
                    for table in one.bug.tables:
                        if one is before or table != "user_recent":  # a stream goes on; a nightly job is run again
                            self.fresh.refill(table, max(at_us, self.now_us), one.bug.stage == "feature")

    def close(self) -> None:
        """Close the store."""
        self.fresh.store.close()


def rows_of(asked: Requests, low: int, high: int) -> Requests:
    """Requests `low` to `high`."""
    part = slice(low, high)
    return Requests(
        asked.request_id[part],
        asked.time_us[part],
        asked.user_id[part],
        {name: values[part] for name, values in asked.context.items()},
        asked.candidates[part],
        asked.bids[part],
    )

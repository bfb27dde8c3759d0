"""The market itself: `World`, an `Environment` that sends requests and answers slates.

History drives it with a logging policy; drills and live traffic drive it with the served model.  It draws nothing: all
luck is a hash, so the same seed and the same slates give the same bytes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.ids import click_id, derived_id, uniform
from features.schemas import CLICKS, REQUESTS
from infra.clock import DAY_US, HOUR_US
from pipelines.sources.contract import Requests, Response, Slates
from pipelines.sources.world import tables
from pipelines.sources.world.arrivals import NO_FILL, PLACEMENTS, Visits, pages, visits
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.delays import click_delay_us, transport_us
from pipelines.sources.world.inventory import inventory
from pipelines.sources.world.luck import Kind
from pipelines.sources.world.memory import Memory
from pipelines.sources.world.population import DEVICES, population
from pipelines.sources.world.retrieval import bids, candidates
from pipelines.sources.world.truth import Truth, position_bias, sigmoid

I64 = npt.NDArray[np.int64]


def codes(names: tuple[str, ...], values: npt.NDArray[np.generic]) -> I64:
    """The index of each value in sorted `names`; len(names) for a value that isn't there."""
    known = np.array(names)
    at = np.minimum(np.searchsorted(known, values), len(names) - 1)
    return np.where(known[at] == values, at, len(names))


class World:
    """An ad market whose true click probability is known."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.population = population(config)
        self.inventory = inventory(config)
        self._truth = Truth(config, self.population, self.inventory)
        self._memory = Memory.blank(len(self.population), config.first_day_us)
        self._visits: tuple[int, Visits] | None = None  # (day_us, what is planned for it)
        self._unanswered = False

    @property
    def identity(self) -> str:
        """Which world this is, apart from where it stands."""
        return self.config.identity()

    @property
    def now_us(self) -> int:
        """Where the world stands: everything before has been answered."""
        return self._memory.now_us

    def users(self, until_us: int | None = None) -> pa.Table:
        """Users who signed up before `until_us` (the end of the history unless given), as features.schemas.USERS."""
        return tables.users_table(self.config, self.population, self.config.end_us if until_us is None else until_us)

    def ads(self, until_us: int | None = None) -> pa.Table:
        """Ads created before `until_us` (the end of the history unless given), as features.schemas.ADS."""
        return tables.ads_table(self.config, self.inventory, self.config.end_us if until_us is None else until_us)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """All that `restore` needs to go on from here in another process."""
        return self._memory.arrays()

    def restore(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Stand where the world stood when `state` was taken."""
        memory = Memory.of(state)
        if len(memory.mood) != len(self.population):
            raise ValueError(f"a state of {len(memory.mood)} users can't be restored in a world of {len(self.population)}")
        self._memory, self._visits, self._unanswered = memory, None, False

    def requests(self, until_us: int) -> Iterator[Requests]:
        """See `pipelines.sources.contract.Environment.requests`.  ValueError past the horizon the world was planned for."""
        if until_us > self.config.horizon_us:
            days = self.config.horizon_days
            raise ValueError(f"this world is planned for {days} days; ask for a time before {self.config.horizon_us} us")
        memory = self._memory
        while memory.now_us < until_us:
            self._check_answered()
            start_us = memory.now_us
            hour_us = start_us - start_us % HOUR_US
            memory.now_us = min(until_us, hour_us + HOUR_US)
            visit = self._between(start_us, memory.now_us)
            if len(visit.user):
                self._unanswered = True
                yield self._ask(visit, hour_us)
        self._check_answered()

    def _check_answered(self) -> None:
        if self._unanswered:
            raise RuntimeError("the last chunk of requests has no answer: call respond(slates) before drawing the next")

    def _between(self, start_us: int, end_us: int) -> Visits:
        """The visits in [start_us, end_us), which lie in one day."""
        while self._memory.day_us + DAY_US <= start_us:
            self._memory.turn_day()
        day_us = self._memory.day_us
        if self._visits is None or self._visits[0] != day_us:
            self._visits = (day_us, visits(self.config, self.population, day_us, self._memory.mood))
        planned = self._visits[1]
        chunk = slice(*np.searchsorted(planned.time_us, [start_us, end_us]))
        return Visits(planned.request_id[chunk], planned.time_us[chunk], planned.user[chunk])

    def _ask(self, visit: Visits, hour_us: int) -> Requests:
        seed = self.config.seed
        candidate = candidates(seed, self.inventory, hour_us, visit.request_id, self.config.candidates)
        return Requests(
            visit.request_id,
            visit.time_us,
            visit.user + 1,
            pages(self.config, self.population, visit),
            candidate + 1,
            bids(seed, self.inventory, visit.request_id, candidate),
        )

    def respond(self, slates: Slates) -> Response:
        """See `pipelines.sources.contract.Environment.respond`.

        A slot whose `shown` is negative stays empty.  Some pages are left before any ad is seen: their request has n_shown 0.
        """
        seed, asked = self.config.seed, slates.requests
        filled = uniform(seed, Kind.FILL, asked.request_id) >= NO_FILL
        row, slot = np.nonzero((slates.shown >= 0) & filled[:, None])
        chosen = slates.shown[row, slot]
        request_id, time_us = asked.request_id[row], asked.time_us[row]
        user, ad = self._index(asked.user_id, len(self.population), "user")[row], asked.candidates[row, chosen] - 1
        category = self.inventory.category[ad].astype(np.int64)
        interest = self._truth.interest(user, ad)
        exposure = self._memory.saw(user, category, row, time_us)
        device, placement = asked.context["device"], asked.context["placement"]
        topic = asked.context["page_topic"].astype(np.int64)[row]
        device_code, placement_code = codes(DEVICES, device)[row], codes(PLACEMENTS, placement)[row]
        s = self._truth.score(user, ad, device_code, placement_code, topic, time_us, exposure, interest)
        p = sigmoid(s + position_bias(slot))
        np.add.at(self._memory.relevance, user, interest)
        np.add.at(self._memory.shown, user, 1.0)
        self._unanswered = False

        impression_id = derived_id(request_id, slot)
        clicked = uniform(seed, Kind.CLICK, request_id, ad, slot) < p
        click_us = time_us[clicked] + click_delay_us(seed, self.config.tuning, impression_id[clicked])
        n_shown = np.bincount(row, minlength=len(asked))
        n_candidates = np.full(len(asked), asked.candidates.shape[1])
        device_column, placement_column = pa.array(device), pa.array(placement)
        rows = pa.array(row)
        requests = {
            "request_id": asked.request_id,
            "event_timestamp": asked.time_us,
            "arrived_at": asked.time_us + transport_us(seed, Kind.REQUEST_ARRIVAL, asked.request_id),
            "user_id": asked.user_id,
            "device": device_column,
            "placement": placement_column,
            "n_candidates": n_candidates,
            "n_shown": n_shown,
        }
        impressions = {
            "impression_id": impression_id,
            "request_id": request_id,
            "event_timestamp": time_us,
            "arrived_at": time_us + transport_us(seed, Kind.IMPRESSION_ARRIVAL, impression_id),
            "user_id": asked.user_id[row],
            "ad_id": ad + 1,
            "slot": slot,
            "n_candidates": n_candidates[row],
            "bid": asked.bids[row, chosen],
            "propensity": slates.propensity[row, slot],
            "policy": pa.array([slates.policy]).take(pa.array(np.zeros(len(row), np.int64))),
            "randomised": slates.randomised[row],
            "device": device_column.take(rows),
            "placement": placement_column.take(rows),
            "page_topic": topic,
        }
        click = click_id(impression_id[clicked])
        clicks = {
            "click_id": click,
            "impression_id": impression_id[clicked],
            "event_timestamp": click_us,
            "arrived_at": click_us + transport_us(seed, Kind.CLICK_ARRIVAL, click),
        }
        return Response(
            tables.table(REQUESTS, requests),
            tables.table(tables.WORLD_IMPRESSIONS, impressions),
            tables.table(CLICKS, clicks),
            tables.table(tables.TRUTH, {"impression_id": impression_id, "p_true": p}),
        )

    @staticmethod
    def _index(ids: I64, known: int, what: str) -> I64:
        """Ids as indexes; ValueError names an id that isn't of this world."""
        strange = (ids < 1) | (ids > known)
        if strange.any():
            raise ValueError(f"{what}_id {int(ids[strange][0])} isn't in this world: ids are 1 .. {known}")
        return ids - 1

"""The simulated market goes on from where a home's events end, under one arm for everybody or under a split of users.

In memory: nothing is written.  Luck is a hash, so runs that differ only in who gets which arm meet the same luck, and what
everybody would have done in either arm is known.  Called by `pipelines.experiment.run`.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.clock import DAY_US, HOUR_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.progress import progress as bar
from infra.settings import Settings
from monitoring.experiment.user_days import UserDays, user_days
from pipelines.experiment.arms import LEGACY, Model, Split, artefact_of
from pipelines.experiment.store import Store
from pipelines.sources.contract import Response
from pipelines.sources.history import Policy
from pipelines.sources.registry import source_of
from pipelines.sources.world.legacy import LegacyRanker
from pipelines.sources.world.market import World
from pipelines.sources.world.source import WorldSource
from pipelines.training import SERVICE
from pipelines.windows import positions
from serving.assignment import Assignment

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """What users did, and what they were expected to do: true click probabilities in the place of clicks."""

    did: UserDays
    expected: UserDays


class Market:
    """Runs of one home's world over the same days."""

    def __init__(self, home: Home, chosen: Settings, looks: int, shown: bool = True) -> None:
        """A test of so many looks takes a day more: it says who came back, and brings the last clicks."""
        source = source_of(chosen)
        if not isinstance(source, WorldSource):
            raise ExplainedError(
                f"an A/B test needs users who react; {source.spec.name} is a finished log (use --source world, or --log)"
            )
        self._home, self._chosen, self._source, self._shown = home, chosen, source, shown
        self._days, self._window_us = looks + 1, round(chosen.attribution_hours * HOUR_US)
        self.first_us = source.resume(home).now_us
        if self.first_us + self._days * DAY_US > source.config.horizon_us:
            most = (source.config.horizon_us - self.first_us) // DAY_US - 1
            raise ExplainedError(f"this world is planned for {most} more days; ask for a shorter test (--days {most})")
        self.everybody = cache(self._everybody)  # by the arm's name

    def split(self, names: tuple[str, str], assignment: Assignment) -> Run:
        """Users in the arms of an assignment."""
        if len(set(names)) == 1:
            return self.everybody(names[0])
        return self._run(names, assignment)

    def _everybody(self, name: str) -> Run:
        return self._run((name,), Assignment("everybody"))

    def _run(self, names: tuple[str, ...], assignment: Assignment) -> Run:
        world = self._source.resume(self._home)
        store = Store(self._home, world, self._source.spec.entities, self._source.spec.context, SERVICE)
        policies = tuple(self._policy(name, world, store) for name in names)
        policy = policies[0] if len(policies) == 1 else Split(assignment, policies)
        answers: list[_Counted] = []
        until_us = self.first_us + self._days * DAY_US
        what = " against ".join(names) if len(names) > 1 else f"{names[0]} for everybody"
        moments = [*store.moments(until_us), until_us]
        for number in bar(range(len(moments)), what, "step", shown=self._shown):
            for asked in world.requests(moments[number]):
                response = world.respond(policy(asked))
                store.happened(response)
                answers.append(_counted(response, self._window_us))
            if moments[number] < until_us:
                store.advance(moments[number])
        return self._totals(answers)

    def _policy(self, name: str, world: World, store: Store) -> Policy:
        if name == LEGACY:
            return LegacyRanker.of(world)
        return Model(artefact_of(self._home, name), store, self._chosen.epsilon, world.config.slots)

    def _totals(self, answers: "list[_Counted]") -> Run:
        found = {name: np.concatenate([getattr(part, name) for part in answers]) for name in _Counted.__slots__}
        asked_day, shown_day = ((found[name] - self.first_us) // DAY_US for name in ("asked_us", "shown_us"))
        did, expected = (
            user_days(self._days, found["asked_user"], asked_day, found["shown_user"], shown_day, found[clicks])
            for clicks in ("clicked", "p_true")
        )
        return Run(did, expected)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What is kept of a response: n requests and m impressions."""

    asked_user: I64
    asked_us: I64
    shown_user: I64
    shown_us: I64
    clicked: npt.NDArray[np.bool_]  # within the attribution window
    p_true: npt.NDArray[np.float64]


def _counted(response: Response, window_us: int) -> _Counted:
    shown, shown_us = response.impressions, _us(response.impressions)
    at = positions(shown["impression_id"].to_numpy(), response.clicks["impression_id"].to_numpy())
    clicked = np.zeros(len(shown), bool)
    clicked[at[_us(response.clicks) - shown_us[at] <= window_us]] = True
    users = response.requests["user_id"].to_numpy(), shown["user_id"].to_numpy()
    return _Counted(users[0], _us(response.requests), users[1], shown_us, clicked, response.truth["p_true"].to_numpy())


def _us(events: pa.Table) -> I64:
    return pc.cast(events["event_timestamp"], pa.int64()).to_numpy()

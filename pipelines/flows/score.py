"""Batch scoring as a flow: one day of impressions through the same scorer as online requests."""

from prefect import flow

from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from pipelines.flows.step import step
from serving.batch import ScoreCounts, score_day
from serving.champion import champion


@step("score", retries=1)
def score_impressions(home: Home, day: str, threads: int) -> ScoreCounts:
    """The champion's probability for every impression that arrived on the day."""
    return score_day(home, day, champion(home, threads))


@flow(name="score")
def score(chosen: Settings, day: str | None = None) -> ScoreCounts:
    """Score a day of arrival, the latest by default; doing it again changes nothing."""
    home = chosen.base()
    days = Lake.of(home).days("impressions")
    if not days:
        raise ExplainedError(f"{home.root} holds no impressions; run: make train")
    return score_impressions(home, day or days[-1], chosen.threads)

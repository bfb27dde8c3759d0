"""How many rows a second one core scores in batch once features are joined.  Called by `clickproof bench score`.

The goal is 100,000 rows a second with XGBoost.  Its own `inplace_predict` on an encoded matrix is the floor, measured in
the same run; the join's share of the whole job is printed beside it, because that is where the time of a batch job really
goes.
"""

import time
from typing import Any, cast

from features.catalogue import Entity
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.clock import FixedClock
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from pipelines.bench.peers.raw import cpu_us, raw_model
from serving.assignment import Assignment
from serving.champion import champion
from serving.messages import context_names
from serving.policy import GreedyPolicy
from serving.scorer import Scorer, fetch

GOAL = 100_000  # rows a second and core, XGBoost, features joined


def run(home: Home, day: str | None = None, rows: int = 100_000) -> dict[str, Any]:
    """Rows a processor second of the champion on a day's impressions (the last day by default, at most `rows` of them)."""
    lake = Lake.of(home)
    days = lake.days("impressions")
    if not days or (day is not None and day not in days):
        there = f"there are {days[0]} to {days[-1]}" if days else "the lake holds none; run `clickproof ingest`"
        raise ExplainedError(f"no impressions to score{f' on {day}' if day else ''}: {there}")
    artefact = champion(home)
    context = context_names(artefact.spec.names)
    impressions = lake.read("impressions", days=[day or days[-1]]).slice(0, rows)
    asked, slot = from_impressions(impressions, context), impressions["slot"].to_numpy()
    source = AsOfSource(home, cast(tuple[Entity, ...], artefact.entities), context, artefact.service)
    scorer = Scorer(source, artefact, GreedyPolicy(), Assignment("batch"), None, FixedClock(0))
    started = time.process_time()
    features = fetch(source, asked)
    join_s = time.process_time() - started
    n = len(asked)
    score_s = cpu_us(lambda: scorer.score_features(features, slot), 10) / 1e6
    raw_s = cpu_us(raw_model(artefact, features.columns), 10) / 1e6
    return {
        "family": artefact.family,
        "model": artefact.hash,
        "rows": n,
        "goal_rows_per_cpu_second": GOAL,
        "rows_per_cpu_second": round(n / score_s),
        "speed_over_goal": round(n / score_s / GOAL, 2),
        "raw_inference_rows_per_cpu_second": round(n / raw_s),
        "cpu_over_raw_inference": round(score_s / raw_s, 2),
        "join_rows_per_cpu_second": round(n / join_s),
        "join_share": round(join_s / (join_s + score_s), 3),
    }

"""How a model ships: what the gates say to candidates good, bad, broken and unmeasured, and how long going back takes."""

import copy
import json
import os
import time
from dataclasses import replace
from typing import Any
from urllib.request import urlopen

import numpy as np

from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models import gates
from models.artefact import Artefact, ArtefactError, load
from models.calibrate import Calibrator
from models.contract import Dataset
from models.train import Trained
from pipelines.answers.workplace import go_on, workplace
from pipelines.bench.processes import SERVE, server
from pipelines.console import say
from pipelines.markdown import table
from pipelines.promotion import Candidate, Comparator, decide, leakage_verdict, record
from pipelines.retraining import newest_windows
from pipelines.sources.contract import SourceSpec
from pipelines.sources.registry import source_of
from pipelines.training import Parts, assemble, audit, fit, lineage, probability
from serving import rollout_store
from serving.champion import champion
from serving.rollout import promote

QUESTION = "How does a model ship, and how fast does it go back?"
NUMBER = 22

NEWER_DAYS = 2
SHUFFLED = 0.2  # share of training rows whose labels are shuffled
TOO_HIGH = 1.3  # the odds of the miscalibrated candidate are this many times too high
TIMES = 5  # rollbacks timed
CUT_BYTES = 16  # bytes cut off an artefact's largest file


def run(chosen: Settings) -> dict[str, Any]:
    """Decisions on candidates two days after the champion was trained, and seconds of a rollback."""
    with workplace(chosen.base(), "shipping") as work:
        say(f"the world goes on for {NEWER_DAYS} days")
        source = source_of(chosen)
        go_on(work, source, NEWER_DAYS)
        parts = assemble(work, source.spec, chosen, newest_windows(work, source.spec, chosen))
        checks, _ = audit(work, source.spec, parts, watermark_us(work), chosen.attribution_hours)
        return _ship(work, source.spec, chosen, parts, leakage_verdict(checks))


def _ship(work: Home, spec: SourceSpec, chosen: Settings, parts: Parts, leakage: dict[str, Any]) -> dict[str, Any]:
    old = champion(work)
    against = Comparator.of(work, spec, old, parts.test, champion=True)
    say(f"training {old.family} on the newest days, twice")
    refresh = fit(old.family, parts, spec, chosen.seed)
    worse = fit(old.family, replace(parts, train=shuffled(parts.train, SHUFFLED)), spec, chosen.seed)
    high = replace(refresh, artefact=miscalibrated(refresh.artefact, TOO_HIGH))
    candidates = {
        "refresh: same configuration, two days newer": Candidate.of(work, spec, refresh, parts.test),
        f"labels of {SHUFFLED:.0%} of the training rows shuffled": Candidate.of(work, spec, worse, parts.test),
        f"odds {TOO_HIGH:g} times too high": Candidate.of(work, spec, high, parts.test),
    }
    rows = [_row(story, decide(one, against, parts.test, leakage)) for story, one in candidates.items()]
    good = next(iter(candidates.values()))
    rows.append(_row("the refresh, its AUC not computed", decide(without(good, "auc"), against, parts.test, leakage)))
    alone = parts.test.take(np.arange(1))
    rows.append(_row("the refresh, evaluated on a single impression", _on(work, spec, refresh, against, alone, leakage)))
    evaluation = copy.deepcopy(good.report)
    comparison = {"ne_difference": {"value": -1.0, "low": -1.0, "high": -1.0}}
    rows.append(_row("the refresh, never audited for leakage", gates.decide(evaluation, comparison, None, "refresh")))
    name = record(work, good, lineage(work, chosen, parts), [], watermark_us(work))
    rows.append(_truncated(work, good.artefact))
    return {
        "family": old.family,
        "n": len(parts.test),
        "clicks": int(parts.test.label.sum()),
        "days": good.report["days"],
        "candidates": rows,
        "rollback": _rollback(work, name, old.hash),
    }


def shuffled(data: Dataset, share: float) -> Dataset:
    """The same rows with the labels of a share of them dealt out anew."""
    rng = np.random.default_rng(22)
    rows = rng.choice(len(data), int(share * len(data)), replace=False)
    label = data.label.copy()
    label[rows] = label[rng.permutation(rows)]
    return replace(data, label=label)


def miscalibrated(artefact: Artefact, factor: float) -> Artefact:
    """The same model with its odds multiplied."""
    old = artefact.calibrator
    return replace(artefact, calibrator=Calibrator(old.slope, old.intercept + float(np.log(factor))), _saved=[])


def without(candidate: Candidate, metric: str) -> Candidate:
    """A candidate in whose evaluation a number is missing."""
    unknown = {"value": None, "low": None, "high": None}
    return replace(candidate, report={**candidate.report, metric: unknown})


def _on(
    work: Home, spec: SourceSpec, trained: Trained, against: Comparator, test: Dataset, leakage: dict[str, Any]
) -> gates.Decision:
    here = replace(against, p=probability(against.artefact, test))
    return decide(Candidate.of(work, spec, trained, test), here, test, leakage)


def _row(story: str, decision: gates.Decision) -> dict[str, Any]:
    """The decision with its reasons, the failed ones first."""
    failed = [reason for reason in decision.reasons if reason.startswith("failed")]
    return {"candidate": story, "passed": decision.passed, "reasons": failed or [_decisive(decision)], "failed": len(failed)}


def _decisive(decision: gates.Decision) -> str:
    """Of a decision that passed, the sentence about the champion."""
    return next(reason for reason in decision.reasons if "NE difference" in reason)


def _truncated(work: Home, artefact: Artefact) -> dict[str, Any]:
    """An artefact of which the last bytes never arrived, as the server would load it."""
    root = work.root / "truncated"
    name = artefact.save(root)
    largest = max((path for path in (root / name).iterdir() if path.name != "manifest.json"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size - CUT_BYTES)
    try:
        load(root, name)
    except ArtefactError as error:
        reason = str(error).partition(";")[0].replace(f"{root}/", "")
        return {"candidate": "an artefact whose last bytes are missing", "passed": False, "reasons": [reason], "failed": 1}
    raise AssertionError("a truncated artefact was loaded")


def _rollback(work: Home, new: str, old: str) -> dict[str, float]:
    """Seconds of a running server: until it answers when started; from a promotion, of a model that it has to load, and from a
    rollback until all answers are the other model's; and of the rollback itself, document and alias."""
    promoted, moves, back = [], [], []
    started = time.perf_counter()
    with server(SERVE, work.root) as running:
        ready = time.perf_counter() - started
        for _ in range(TIMES):
            began = time.perf_counter()
            rollout_store.change(work, "the drill", "promote", lambda now: promote(now, new))
            _answered_by(running.port, new)
            promoted.append(time.perf_counter() - began)
            began = time.perf_counter()
            entry = rollout_store.rollback(work, "the drill", "roll back")
            moves.append(time.perf_counter() - began)
            _answered_by(running.port, old)
            back.append(time.perf_counter() - began)
            assert entry.after.champion == old
    return {
        "start_s": ready,
        "first_promotion_s": promoted[0],
        "document_s": float(np.median(moves)),
        "back_s": float(np.median(back)),
        "slowest_back_s": max(back),
    }


def _answered_by(port: int, model: str) -> None:
    """Return when the server says that this is its model."""
    while json.loads(urlopen(f"http://127.0.0.1:{port}/v1/model", timeout=10).read())["model"] != model:
        time.sleep(0.005)


def markdown(result: dict[str, Any]) -> str:
    """Candidates and decisions; then the way back."""
    rows = [
        [row["candidate"], "**passes**" if row["passed"] else "refused", "<br>".join(_short(row))]
        for row in result["candidates"]
    ]
    back = result["rollback"]
    return (
        f"{result['family']} against the champion on the newest {result['days']} days ({result['n']:,} impressions, "
        f"{result['clicks']:,} clicks):\n\n{table(['candidate', 'gates', 'why'], rows)}\n\nA running server answers "
        f"with a promoted model that it has to load after {back['first_promotion_s']:.1f} s, and after a rollback with the "
        f"model before in {back['back_s']:.2f} s (the slowest of {TIMES}: {back['slowest_back_s']:.2f} s), of which the "
        f"document with its line in the audit log and the alias take {back['document_s']:.2f} s. One that is started "
        f"answers after {back['start_s']:.1f} s."
    )


def _short(row: dict[str, Any], most: int = 3) -> list[str]:
    """The first reasons, and how many more there are."""
    reasons = [reason.replace("failed: ", "").replace("passed: ", "") for reason in row["reasons"]]
    return reasons[:most] + ([f"and {len(reasons) - most} more"] if len(reasons) > most else [])

"""What miscalibration costs in an auction: the true expected value that is lost when ads are chosen by bid x a wrong p.

An auction here is the ads that one test request showed (up to four), competing for the top slot.  Their true p at the top is
known, so the value lost is exact; only which auctions were met is luck.  Bids are those of the log.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ids import text_id, uniform
from features.requests import from_impressions
from infra.lake import Lake
from infra.settings import Settings
from models.contract import Dataset
from models.newton import sigmoid
from pipelines.answers.material import F64, Material, estimate, material
from pipelines.markdown import interval, table
from pipelines.sources.world.truth import position_bias
from pipelines.training_set import split_windows

QUESTION = "What does miscalibration cost in an auction?"
NUMBER = 4
SIZES = (0.1, 0.2, 0.4, 0.8)  # standard deviation of log bias


@dataclass(frozen=True, slots=True)
class Auctions:
    """a auctions of at most k ads: values [a, k], padded with bid 0."""

    bid: F64
    p_true: F64  # at the top slot
    p: F64  # the champion's, at the top slot
    rows: npt.NDArray[np.int64]  # row of the test set, -1 where padded
    data: Dataset  # one row an auction, for days and users


def run(chosen: Settings) -> dict[str, Any]:
    """Regret of choosing by bid x p with biases that are the same for all, for a page, for a category, for an advertiser."""
    found = material(chosen)
    auctions = auctions_of(found)
    columns = found.test.columns
    groups = {
        "everybody": np.zeros(len(found.test), np.int64),
        "the placement": np.unique(columns["placement"], return_inverse=True)[1],
        "the ad's category": columns["ad_category"],
        "the advertiser": columns["advertiser_id"],
    }

    def advertisers(size: float) -> F64:
        return bias(groups["the advertiser"], size, "the advertiser")[auctions.rows]

    reserve = float(np.median((auctions.bid * auctions.p_true).max(axis=1)))
    biased = {
        name: {str(size): _cost(auctions, auctions.p_true * bias(group, size, name)[auctions.rows], reserve) for size in SIZES}
        for name, group in groups.items()
    }
    return {
        **found.size(),
        "auctions": len(auctions.bid),
        "ads": int((auctions.bid > 0).sum()),
        "reserve": reserve,
        "by_champion": {
            "the champion's": _cost(auctions, auctions.p, reserve),
            "the champion's, times a factor of the advertiser (20%)": _cost(auctions, auctions.p * advertisers(0.2), reserve),
            "the champion's, times a factor of the advertiser (40%)": _cost(auctions, auctions.p * advertisers(0.4), reserve),
        },
        "biased": biased,
    }


def auctions_of(found: Material) -> Auctions:
    """The test days' auctions with at least two ads.  Raises ExplainedError for a source without truth."""
    test, truth = found.test, found.p_true()
    window = split_windows(found.spec)["test"]
    names = ["impression_id", "request_id", "event_timestamp", "user_id", "ad_id", "bid"]
    logged = Lake.of(found.home).read("impressions", names, window.days())
    ids = from_impressions(logged, ()).row_id
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, test.row_id, sorter=order)]
    bid, request = logged["bid"].to_numpy()[at].astype(np.float64), logged["request_id"].to_numpy()[at]
    _, first, auction = np.unique(request, return_index=True, return_inverse=True)
    place = _place_within(auction)
    size = (len(first), int(place.max()) + 1)
    rows = np.full(size, -1, np.int64)
    rows[auction, place] = np.arange(len(test))
    rows, first = rows[(rows >= 0).sum(axis=1) > 1], first[(rows >= 0).sum(axis=1) > 1]
    there = rows >= 0
    top = sigmoid(np.log(truth) - np.log1p(-truth) - position_bias(test.slot))
    p = found.champion.probability(found.champion.score(test.columns), np.zeros(len(test), np.int16))
    return Auctions(
        np.where(there, bid[rows], 0.0), np.where(there, top[rows], 0.0), np.where(there, p[rows], 0.0), rows, test.take(first)
    )


def _place_within(group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... within the rows of each group."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(group[order]) > 0]))
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return place


def bias(group: npt.NDArray[np.int64], size: float, salt: str) -> F64:
    """A factor a row, the same within a group: exp(size x z) with z standard normal by hash; for one group exp(size)."""
    if (group == group[0]).all():
        return np.full(len(group), np.exp(size))
    u = np.maximum(uniform(text_id(salt), group), 1e-12)
    z = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * uniform(text_id(salt), group, 1))
    return np.exp(size * z)


def _cost(auctions: Auctions, p: F64, reserve: float) -> dict[str, Any]:
    """What choosing by bid x `p` loses against choosing by bid x the true p, as shares of the latter's value.

    With a reserve the slot stays empty unless bid x p reaches it, and a filled slot is worth its value minus the reserve (what
    the space is worth otherwise)."""
    value = auctions.bid * auctions.p_true
    best = value.max(axis=1)
    at = np.argmax(auctions.bid * p, axis=1)[:, None]
    got = np.take_along_axis(value, at, axis=1)[:, 0]
    promised = np.take_along_axis(auctions.bid * p, at, axis=1)[:, 0]
    gain, best_gain = np.where(promised >= reserve, got - reserve, 0.0), np.maximum(best - reserve, 0.0)

    def lost(of: F64, out_of: F64) -> dict[str, float | None]:
        return estimate(lambda total: 1.0 - float(total[0] / total[1]), (of, out_of), auctions.data)

    return {
        "regret": lost(got, best),
        "regret_with_reserve": lost(gain, best_gain),
        "other_winner": float((value.argmax(axis=1) != at[:, 0]).mean()),
        "overbilled": float(promised.sum() / got.sum() - 1.0),
    }


def markdown(result: dict[str, Any]) -> str:
    """Value lost by who shares a bias and by its size, without and with a reserve; then the champion's own."""
    head = ["true p times a factor that is shared by", *(f"{size:.0%}" for size in SIZES)]
    tables = {
        name: table(
            head,
            [[shared, *(_percent(sizes[str(size)][name]) for size in SIZES)] for shared, sizes in result["biased"].items()],
        )
        for name in ("regret", "regret_with_reserve")
    }
    other = [[name, f"{found['other_winner']:.1%}", *_cells(found)] for name, found in result["by_champion"].items()]
    cells = ["p is", "another ad wins than by true p", "value lost", "with a reserve", "promised over delivered"]
    return "\n".join(
        [
            f"{result['auctions']:,} auctions of {result['ads']:,} ads, {result['days']} days. Percent of the true expected "
            "value that is lost, with 95% intervals, by the spread of the factor (standard deviation of its logarithm; "
            "everybody's factor is one such step up):",
            "",
            tables["regret"],
            "",
            f"The same where the slot stays empty below a reserve of {result['reserve']:.2f} (the median of the best bid x p):",
            "",
            tables["regret_with_reserve"],
            "",
            "And with a model's p instead of the true one:",
            "",
            table(cells, other),
        ]
    )


def _cells(found: dict[str, Any]) -> list[str]:
    lost = [_percent(found[name]) for name in ("regret", "regret_with_reserve")]
    return [*lost, f"{found['overbilled']:+.1%}"]


def _percent(found: dict[str, float | None]) -> str:
    return interval({name: None if v is None else 100 * v for name, v in found.items()}, 2)

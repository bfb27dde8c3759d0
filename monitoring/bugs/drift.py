"""Drifts: nothing is broken, the world has moved.  They enter with the requests or with what people do."""

import numpy as np
import pyarrow as pa

from features.ids import derived_id, mix, uniform
from features.schemas import CATEGORIES
from monitoring.bugs.clicks import impression_of, with_more, without
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import hit, hours_since_onset, ids, numbers, put, touched, words

_SALT = 0x4430  # plus the entry's number

SEASON_CAP, FADE_CAP = 0.6, 0.9  # where slow drifts end
TIRED_OF = "home_feed"
OLD_HOME, NEW_HOME = "desktop", "mobile"
MOBILES_A_DESKTOP = 2.2  # impressions: between the 1.6 of one market and the 3.2 of the other, so that totals hardly move


def towards_mobile(requests: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Requests with a hashed `share` of those from other devices coming from a mobile instead."""
    moved = hit(ids(requests, "request_id"), _SALT + 1, share, scene)
    return put(requests, {"device": "mobile"}, moved)


def new_ads_offered(candidates: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Candidates with a hashed `share` of them replaced by ads that nobody has shown yet; still no ad twice in a request.

    Where a request would need more new ads than there are, or one that it has already, the old candidate stays.
    """
    new = np.sort(ids(scene.tables["new_ads"], "ad_id")) if "new_ads" in scene.tables else np.zeros(0, np.int64)
    request, ad = ids(candidates, "request_id"), ids(candidates, "ad_id")
    chosen = np.flatnonzero(uniform(request, ad, _SALT + 2, scene.seed) < share)
    if len(new) == 0 or len(chosen) == 0:
        return candidates
    chosen = chosen[np.lexsort((ad[chosen], request[chosen]))]
    first = np.append(True, np.diff(request[chosen]) != 0)
    turn = np.arange(len(chosen)) - np.maximum.accumulate(np.where(first, np.arange(len(chosen)), 0))
    start = mix(_SALT + 2, scene.seed, request[chosen], 1) % np.uint64(len(new))
    offered = new[(start.astype(np.int64) + turn) % len(new)]
    # A pair's hash stands for the pair: what a request has already it cannot be given again.
    fits = (turn < len(new)) & ~np.isin(derived_id(request[chosen], offered), derived_id(request, ad))
    replaced, where = ad.copy(), np.zeros(len(ad), np.bool_)
    replaced[chosen[fits]], where[chosen[fits]] = offered[fits], True
    return put(candidates, {"ad_id": replaced}, where)


def fewer_clicks(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed `share`."""
    return without(clicks, share, _SALT + 3, scene)


def more_clicks(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks plus, in expectation, `share` of sum p_true: where a click is likely, one more is."""
    p = numbers(scene.tables["impressions"], "p_true")
    return with_more(clicks, share * p / (1 - p), _SALT + 4, scene)


def tired_of_the_feed(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed `share` of those at one placement."""
    at = impression_of(clicks, scene)
    placement = words(scene.tables["impressions"], "placement")
    there = (at >= 0) & (placement[at] == TIRED_OF) if len(placement) else at >= 0
    return without(clicks, np.where(there, share, 0.0), _SALT + 5, scene)


def clicks_move_over(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed `share` of desktops', plus about as many on mobiles, where there are more to share them."""
    shown = scene.tables["impressions"]
    device, p = words(shown, "device"), numbers(shown, "p_true")
    more = with_more(clicks, np.where(device == NEW_HOME, share / MOBILES_A_DESKTOP * p / (1 - p), 0.0), _SALT + 6, scene)
    at = impression_of(more, scene)
    leaves = (at >= 0) & (device[at] == OLD_HOME) if len(device) else at >= 0
    return without(more, np.where(leaves, share, 0.0), _SALT + 7, scene)


def season_begins(requests: pa.Table, share_a_day: float, scene: Scene) -> pa.Table:
    """Requests of which more and more, `share_a_day` of all every day from the onset on, are for pages of one topic."""
    topic = int(mix(_SALT + 8, scene.seed, 1) % np.uint64(CATEGORIES))
    share = np.minimum(share_a_day * hours_since_onset(requests, scene) / 24, SEASON_CAP)
    return put(requests, {"page_topic": topic}, hit(ids(requests, "request_id"), _SALT + 8, share, scene))


def interest_fades(clicks: pa.Table, share_a_day: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed share that grows by `share_a_day` every day from the onset on."""
    share = np.minimum(share_a_day * hours_since_onset(clicks, scene) / 24, FADE_CAP)
    return without(clicks, share, _SALT + 9, scene)


DRIFTS = (
    Bug(
        code="DRIFT01",
        name="feature-drift",
        bug_class="covariate-shift",
        stage="traffic",
        tables=("requests",),
        subject="device",
        story=(
            "An app release moves traffic from desktops, tablets and TVs to mobiles within a day. Requests are well-formed and "
            "the features are right; the model is asked about a mix that it was not fitted to."
        ),
        looks_like=(
            "The shares of device values leave their forecast for the day by far more than days differ from each other; nulls, "
            "other columns and replay stay as they were."
        ),
        doses={"strong": 0.5, "mild": 0.1, "trace": 0.005},
        dose_means="share of the requests from other devices",
        inject=towards_mobile,
    ),
    Bug(
        code="DRIFT02",
        name="new-ad-wave",
        bug_class="new-ad-wave",
        stage="traffic",
        tables=("candidates",),
        subject="ad_id",
        also=("item", "campaign_id", "advertiser_id", *touched("ad_profile", "ad_daily", "campaign_daily")),
        story=(
            "A large advertiser uploads its whole catalogue at once. Auctions fill with ads that have no history: the model "
            "sees nulls where it leans most, and guesses."
        ),
        looks_like=(
            "The share of impressions of ads never seen before rises at once, with nulls in ads' and campaigns' statistics and "
            "ages near zero; replay agrees, because there is nothing to know."
        ),
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.004},
        dose_means="share of candidates",
        inject=new_ads_offered,
    ),
    Bug(
        code="DRIFT03",
        name="people-click-less",
        bug_class="prior-shift",
        stage="market",
        tables=("clicks",),
        subject="clicks",
        also=("prediction",),
        story="A change of mood, a competitor, a banner law: everybody everywhere clicks less, by the same factor.",
        looks_like=(
            "Clicks fall short of what was promised, by the same ratio in every slice; features, predictions and books are "
            "fine."
        ),
        doses={"strong": 0.5, "mild": 0.1, "trace": 0.005},
        dose_means="share of clicks that no longer happen",
        inject=fewer_clicks,
        calibration_shift={"strong": 0.5, "mild": 0.1, "trace": 0.005},
    ),
    Bug(
        code="DRIFT04",
        name="people-click-more",
        bug_class="prior-shift",
        stage="market",
        tables=("clicks",),
        subject="clicks",
        also=("prediction",),
        story="Sales week: people click on everything somewhat more often than the model has learned that they do.",
        looks_like="More clicks than promised, by the same ratio in every slice; features, predictions and books are fine.",
        doses={"strong": 0.6, "mild": 0.1, "trace": 0.005},
        dose_means="clicks gained, as a share of the usual ones",
        inject=more_clicks,
        calibration_shift={"strong": 0.6, "mild": 0.1, "trace": 0.005},
    ),
    Bug(
        code="DRIFT05",
        name="tired-of-the-feed",
        bug_class="concept-drift",
        stage="market",
        tables=("clicks",),
        subject="placement",
        also=("placement_ctr",),
        story=(
            "The home feed's ads get a label that makes them look like ads. People stop clicking there and nowhere else; what "
            "placement meant for a click is no longer what the model has learned."
        ),
        looks_like="One placement's clicks fall short of its predictions, the others' do not; the overall ratio moves little.",
        doses={"strong": 0.8, "mild": 0.3, "trace": 0.02},
        dose_means="share of the clicks at placement home_feed, which has a quarter of all",
        inject=tired_of_the_feed,
        # In a slice with a quarter of the clicks a shift d is seen as well as one of d / 2 in all of them.
        calibration_shift={"strong": 0.4, "mild": 0.15, "trace": 0.01},
    ),
    Bug(
        code="DRIFT06",
        name="clicks-move-to-mobile",
        bug_class="concept-drift",
        stage="market",
        tables=("clicks",),
        subject="device",
        story=(
            "A faster checkout appears in the app and a cookie wall on the desktop site. As many ads are shown as before on "
            "either, and about as many clicked in all, but on the phone rather than at the desk."
        ),
        looks_like="Total clicks stand where they should. By device they don't: desktop below its predictions, mobile above.",
        doses={"strong": 0.8, "mild": 0.2, "trace": 0.015},
        dose_means="share of desktop's clicks (a third of all) that move over",
        inject=clicks_move_over,
        # Slices of a third (shift d) and a half (shift d / 2.2) of the clicks: d x sqrt(1/3 + 1/2 / 2.2^2).
        calibration_shift={"strong": 0.53, "mild": 0.132, "trace": 0.01},
    ),
    Bug(
        code="DRIFT07",
        name="season-begins",
        bug_class="seasonal-drift",
        stage="traffic",
        tables=("requests",),
        subject="page_topic",
        also=("topic_match",),
        story="The garden season begins: day after day more of what people read is about one topic, until it is most of it.",
        looks_like=(
            "The share of one page topic climbs, never jumps; each day is close to the one before and far from last month."
        ),
        doses={"strong": 4.0, "mild": 0.1, "trace": 0.0005},
        dose_means="share of requests that is gained each day (strong: a third within two hours)",
        inject=season_begins,
        # Within the two hours of a strong dose a steep slope and a new mix are the same thing.
        also_classes=("covariate-shift",),
    ),
    Bug(
        code="DRIFT08",
        name="interest-fades",
        bug_class="seasonal-drift",
        stage="market",
        tables=("clicks",),
        subject="clicks",
        also=("prediction",),
        story=(
            "The holidays are over and people's interest fades from day to day; the champion still promises December's clicks."
        ),
        looks_like=(
            "The ratio of clicks to predictions sinks along a line, in all slices alike; each day alone looks like bad luck."
        ),
        doses={"strong": 6.0, "mild": 0.2, "trace": 0.0007},
        dose_means="share of clicks that is lost each day (strong: a half within two hours)",
        inject=interest_fades,
        calibration_shift={"strong": 0.25, "mild": 0.1, "trace": 0.005},  # the mean over 2 hours, 1 day, 14 days
        # A slope that is steep against the time it is given to be seen in is a step.
        also_classes=("prior-shift",),
    ),
)

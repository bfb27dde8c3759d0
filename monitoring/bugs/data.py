"""Faults of data on their way: events lost, doubled, late, forged or malformed between the browser and the tables."""

import numpy as np
import pyarrow as pa

from features.ids import uniform
from infra.clock import HOUR_US, MINUTE_US
from monitoring.bugs.clicks import impression_of, with_more, without
from monitoring.bugs.entry import Bug, Scene
from monitoring.bugs.rows import hit, ids, lost, numbers, put, unknown, words

_SALT = 0x4441  # plus the entry's number

DEAF_DEVICE = "mobile"
PLACEMENTS = ("app_banner", "article_end", "article_side", "home_feed", "home_top", "search")  # in the order of their codes


def unheard_on_mobile(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks less a hashed `share` of those on one device."""
    at = impression_of(clicks, scene)
    device = words(scene.tables["impressions"], "device")
    there = (at >= 0) & (device[at] == DEAF_DEVICE) if len(device) else at >= 0
    return without(clicks, np.where(there, share, 0.0), _SALT + 2, scene)


def delivered_again(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Impressions, followed by a hashed `share` of them again; half of these arrive up to half an hour later than at first."""
    impression = ids(rows, "impression_id")
    again = hit(impression, _SALT + 3, share, scene)
    copies, luck = rows.filter(pa.array(again)), uniform(impression[again], _SALT + 3, scene.seed, 1)
    if not len(copies):
        return rows
    later = ids(copies, "arrived_at") + (np.maximum(2 * luck - 1, 0) * 30 * MINUTE_US).astype(np.int64)
    return pa.concat_tables([rows, put(copies, {"arrived_at": later}, luck > 0.5)])


def logged_again(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of the prediction log, followed by those of a hashed `share` of requests again."""
    again = hit(ids(rows, "request_id"), _SALT + 4, share, scene)
    return pa.concat_tables([rows, rows.filter(pa.array(again))]) if again.any() else rows


def held_for_hours(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks of which a hashed `share` arrives 6 to 12 hours later than it did."""
    click = ids(clicks, "click_id")
    delay = (6 + 6 * uniform(click, _SALT + 5, scene.seed, 1)) * HOUR_US
    later = ids(clicks, "arrived_at") + delay.astype(np.int64)
    return put(clicks, {"arrived_at": later}, hit(click, _SALT + 5, share, scene))


def click_farm(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks, and clicks on nine in ten of the ads shown to a hashed `share` of users, within two seconds of being shown."""
    robot = hit(ids(scene.tables["impressions"], "user_id"), _SALT + 6, share, scene)
    return with_more(clicks, np.where(robot, 0.9, 0.0), _SALT + 106, scene, at_once=True)


def nulls_from_the_stream(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of `user_recent` with the counters of clicks unknown for a hashed `share` of users."""
    return unknown(rows, ("user_clicks_1h", "user_clicks_1d"), hit(ids(rows, "user_id"), _SALT + 7, share, scene))


def campaigns_unread(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Features of a hashed `share` of requests with everything about the campaign unknown."""
    return unknown(rows, _CAMPAIGN, hit(ids(rows, "request_id"), _SALT + 8, share, scene))


def minutes_missing(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Rows of the prediction log without those of a hashed `share` of the day's blocks of ten minutes."""
    gone = hit(ids(rows, "event_timestamp") // (10 * MINUTE_US), _SALT + 9, share, scene)
    return rows.filter(pa.array(~gone)) if gone.any() else rows


def phones(requests: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Requests in which a hashed `share` of mobiles calls itself phone."""
    renamed = (words(requests, "device") == "mobile") & hit(ids(requests, "request_id"), _SALT + 11, share, scene)
    return put(requests, {"device": "phone"}, renamed)


def numbers_for_names(requests: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Requests in which a hashed `share` gives the placement as its number, as text."""
    placement, names = words(requests, "placement"), np.array(PLACEMENTS)
    code = np.minimum(np.searchsorted(names, placement), len(names) - 1)
    chosen = (names[code] == placement) & hit(ids(requests, "request_id"), _SALT + 12, share, scene)
    return put(requests, {"placement": code.astype(np.str_)}, chosen)


def in_percent(rows: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Impressions of which a hashed `share` gives the propensity in percent."""
    chosen = hit(ids(rows, "impression_id"), _SALT + 13, share, scene)
    return put(rows, {"propensity": numbers(rows, "propensity") * 100}, chosen & np.isfinite(numbers(rows, "propensity")))


def clocks_ahead(clicks: pa.Table, share: float, scene: Scene) -> pa.Table:
    """Clicks of which a hashed `share` says that it happened two hours later than it did."""
    ahead = ids(clicks, "event_timestamp") + 2 * HOUR_US
    return put(clicks, {"event_timestamp": ahead}, hit(ids(clicks, "click_id"), _SALT + 14, share, scene))


_CAMPAIGN = ("campaign_ctr", "campaign_coec", "campaign_impressions_7d", "campaign_age_days")

FAULTS = (
    Bug(
        code="DATA01",
        name="clicks-lost-in-the-join",
        bug_class="lost-clicks",
        stage="labels",
        tables=("clicks",),
        subject="clicks",
        story=(
            "The label join runs with a memory limit, and rows that spill over are dropped. The clicks are in the lake, and no "
            "label says so."
        ),
        looks_like="Clicks joined fall below clicks accepted; clicks over predictions fall by the same ratio in every slice.",
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of clicks",
        inject=lost(_SALT + 1, by="click_id"),
    ),
    Bug(
        code="DATA02",
        name="beacon-lost-on-mobile",
        bug_class="lost-clicks",
        stage="market",
        tables=("clicks",),
        subject="device",
        also=("clicks",),
        story=(
            "A new release of the mobile app leaves the page before the click beacon has gone out. People click as they did; "
            "nothing is ever sent, so no count of files or rows can be missed."
        ),
        looks_like="Clicks on mobiles fall short of their predictions, those of other devices don't; the books are in balance.",
        doses={"strong": 0.8, "mild": 0.2, "trace": 0.01},
        dose_means="share of the clicks on mobiles, which have half of all",
        inject=unheard_on_mobile,
        # In a slice with half of the clicks a shift d is seen as well as one of d / sqrt(2) in all of them.
        calibration_shift={"strong": 0.57, "mild": 0.14, "trace": 0.007},
        # Clicks that were never sent and clicks that never happened leave the same log.
        also_classes=("concept-drift",),
    ),
    Bug(
        code="DATA03",
        name="delivered-twice",
        bug_class="duplicated-events",
        stage="events",
        tables=("impressions",),
        subject="impressions",
        also=("impression_id",),
        story=(
            "A load balancer answers too slowly, clients send again, and what was delivered once comes twice: at the same "
            "time, or up to half an hour later."
        ),
        looks_like="Ids repeat among what landed; what was accepted stays, because ingestion keeps the first of each.",
        doses={"strong": 0.3, "mild": 0.03, "trace": 0.004},
        dose_means="share of impressions delivered again",
        inject=delivered_again,
    ),
    Bug(
        code="DATA04",
        name="logged-twice",
        bug_class="duplicated-events",
        stage="log",
        tables=("predictions",),
        subject="predictions",
        also=("id", "impression_id", "impressions"),
        story="A segment of the prediction log is written again after a restart, by a writer that forgot how far it had come.",
        looks_like="Prediction ids repeat, row for row; volumes rise, and clicks over predictions fall.",
        doses={"strong": 0.3, "mild": 0.03, "trace": 0.004},
        dose_means="share of requests logged again",
        inject=logged_again,
    ),
    Bug(
        code="DATA05",
        name="clicks-held-back",
        bug_class="late-events",
        stage="events",
        tables=("clicks",),
        subject="clicks",
        also=("arrived_at",),
        story=(
            "A mobile network's proxy keeps click beacons and lets them go in the evening. Nothing is lost, and everything is "
            "late."
        ),
        looks_like=(
            "Young impressions have too few clicks and those of yesterday have them all; the time from a click to its arrival "
            "grows a second hump at six to twelve hours."
        ),
        doses={"strong": 0.6, "mild": 0.1, "trace": 0.005},
        dose_means="share of clicks that arrive 6 to 12 hours later",
        inject=held_for_hours,
        # Within two hours none of them has arrived: until then late is as good as lost, or as never clicked.
        calibration_shift={"strong": 0.6},
        also_classes=("lost-clicks", "prior-shift"),
    ),
    Bug(
        code="DATA06",
        name="click-farm",
        bug_class="bots",
        stage="market",
        tables=("clicks",),
        subject="user",
        also=("user_id", "clicks"),
        story=(
            "Accounts are sold to a click farm. They visit as often as before and click on nearly everything, a second after "
            "it is shown."
        ),
        looks_like=(
            "A handful of users has a large part of the clicks and a click rate near one; clicks come sooner than people can "
            "read."
        ),
        doses={"strong": 0.03, "mild": 0.005, "trace": 0.0005},
        dose_means="share of users who click on nine in ten ads (1% of users: a fifth more clicks)",
        inject=click_farm,
    ),
    Bug(
        code="DATA07",
        name="nulls-from-the-stream",
        bug_class="null-spike",
        stage="feature",
        tables=("user_recent",),
        subject="user_clicks_1h",
        also=("user_clicks_1d",),
        story=(
            "The stream job waits for the topic of clicks no longer than a tick. When that lags, it writes what it has: "
            "impressions counted, clicks null. Training and serving read the same nulls."
        ),
        looks_like="Nulls of two counters rise for some users at some hour, and served values equal the recomputed ones.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of users",
        inject=nulls_from_the_stream,
    ),
    Bug(
        code="DATA08",
        name="campaign-outage",
        bug_class="null-spike",
        stage="features",
        tables=("features",),
        subject="campaign_ctr",
        also=(*_CAMPAIGN, "campaign_daily"),
        story="Reads of one feature view time out under load, and the endpoint answers without it rather than not at all.",
        looks_like="All features of the campaign are null together in a share of requests; recomputed they are there.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests",
        inject=campaigns_unread,
    ),
    Bug(
        code="DATA09",
        name="minutes-missing",
        bug_class="partial-partition",
        stage="log",
        tables=("predictions",),
        subject="predictions",
        also=("impressions", "requests"),
        story=(
            "Log files are cut every ten minutes, and some never make it to the lake. The hour's partition exists, so its "
            "readers start."
        ),
        looks_like="An hour has less traffic than it should, in whole gaps of ten minutes; what is there is sound.",
        doses={"strong": 0.5, "mild": 0.05, "trace": 0.005},
        dose_means="share of ten-minute files (mild: seven a day)",
        inject=minutes_missing,
    ),
    Bug(
        code="DATA10",
        name="partitions-unread",
        bug_class="partial-partition",
        stage="events",
        tables=("impressions",),
        subject="impressions",
        also=("clicks",),
        story=(
            "The consumer of impressions is restarted with fewer workers than its topic has partitions; nobody reads the rest."
        ),
        looks_like=(
            "Fewer impressions land than were predicted for, evenly at all hours; clicks wait for impressions that don't come."
        ),
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of impressions",
        inject=lost(_SALT + 10, by="impression_id"),
    ),
    Bug(
        code="DATA11",
        name="device-renamed",
        bug_class="schema-change",
        stage="traffic",
        tables=("requests",),
        subject="device",
        story=(
            "A release of the app calls itself phone where older ones say mobile. The contract has no such value and no rule "
            "against it."
        ),
        looks_like="A value nobody has seen appears and grows with the release; mobile loses exactly what it gains.",
        doses={"strong": 0.6, "mild": 0.1, "trace": 0.005},
        dose_means="share of the requests from mobiles",
        inject=phones,
    ),
    Bug(
        code="DATA12",
        name="placement-as-number",
        bug_class="schema-change",
        stage="traffic",
        tables=("requests",),
        subject="placement",
        also=("placement_ctr", "placement_impressions_7d", "placement_daily"),
        story=(
            "A rewritten page sends the placement's number where its name belongs; the field takes any text, so 3 is as good "
            "as home_feed."
        ),
        looks_like="New values 0 to 5 appear in placement; statistics looked up by placement are null in the same rows.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of requests",
        inject=numbers_for_names,
    ),
    Bug(
        code="DATA13",
        name="propensity-in-percent",
        bug_class="schema-change",
        stage="events",
        tables=("impressions",),
        subject="propensity",
        also=("impressions",),
        story=(
            "A new version of the event's schema has the propensity in percent; half the senders have moved to it, the "
            "contract hasn't."
        ),
        looks_like="Impressions are quarantined for a propensity above one, and their clicks wait in vain.",
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of impressions",
        inject=in_percent,
    ),
    Bug(
        code="DATA14",
        name="clocks-ahead",
        bug_class="schema-change",
        stage="events",
        tables=("clicks",),
        subject="event_timestamp",
        also=("clicks",),
        story="A maker of phones ships a clock that is two hours ahead. The clicks it stamps arrive before they have happened.",
        looks_like=(
            "Clicks are quarantined because their time lies after their arrival; those that pass fall short of predictions."
        ),
        doses={"strong": 0.4, "mild": 0.05, "trace": 0.005},
        dose_means="share of clicks",
        inject=clocks_ahead,
    ),
)

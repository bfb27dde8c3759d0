"""The guard's bookkeeping against a twin that looks at one ad at a time."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.canary.counting import LABEL_US, Answered, Counting
from monitoring.canary.counts import bucket_of

CANARY, CHAMPION = "c" * 16, "0" * 16
ARMS = ("a", "b")


def counting() -> Counting:
    return Counting("canary", CANARY, ARMS, CHAMPION)


def answered(arm: str, by: str, user: int, at_us: int, ids: Sequence[int], took_us: int = 700) -> Answered:
    return Answered(arm, by, user, at_us, took_us, np.array(ids, np.int64), np.linspace(0.1, 0.4, len(ids), dtype=np.float32))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Answered], list[tuple[int, int]]]:
    requests, clicks = [], []
    for number in range(draw(st.integers(0, 12))):
        arm = draw(st.sampled_from(["canary", "a", "b", "other"]))
        usual = CANARY if arm == "canary" else CHAMPION
        by = draw(st.sampled_from([usual, usual, usual, "popularity", "f" * 16]))
        at_us = draw(st.integers(0, 3 * LABEL_US))
        ids = [10 * number + slot for slot in range(draw(st.integers(0, 4)))]
        requests.append(answered(arm, by, draw(st.integers(-1, 50)), at_us, ids, draw(st.integers(50, 5000))))
        for one in ids:
            clicks += [(one, at_us + delay) for delay in draw(st.lists(st.integers(0, 2 * LABEL_US), max_size=2))]
    return requests, draw(st.permutations(clicks))


@settings(max_examples=200)
@given(histories(), st.integers(1, 4))
def test_counts_are_those_of_a_twin_that_sees_everything_at_once(
    history: tuple[list[Answered], list[tuple[int, int]]], looks: int
) -> None:
    requests, clicks = history
    found = counting()
    requests = sorted(requests, key=lambda one: one.time_us)
    edges_us = np.linspace(0, 6 * LABEL_US, looks + 1)[1:]
    done = 0
    for until_us in edges_us:  # everything is seen when it happened
        now = [one for one in requests[done:] if one.time_us <= until_us]
        found.answered(now)
        done += len(now)
        before_us = 0 if until_us == edges_us[0] else edges_us[list(edges_us).index(until_us) - 1]
        found.clicked([click for click in clicks if before_us < click[1] + (before_us == 0) <= until_us])
        found.label(int(until_us))
    for canary, counts in ((True, found.canary), (False, found.champion)):
        mine = [one for one in requests if (one.arm == "canary" if canary else one.arm in ARMS)]
        by = CANARY if canary else CHAMPION
        good = [one for one in mine if one.answered_by == by]
        failed = sum(one.answered_by == "popularity" for one in mine)
        assert (counts.requests, counts.errors) == (len(good) + failed, failed)
        assert counts.latency.sum() == len(good)
        shown = np.zeros(32)
        clicked = np.zeros(32)
        sum_p = np.zeros(32)
        for one in good:
            at = int(bucket_of(np.array([one.user_id]))[0])
            for impression, p in zip(one.impression_id.tolist(), one.p.tolist(), strict=True):
                shown[at] += 1
                sum_p[at] += p
                clicked[at] += any(i == impression and t - one.time_us <= LABEL_US for i, t in clicks)
        np.testing.assert_array_equal(counts.impressions, shown)
        np.testing.assert_array_equal(counts.clicks, clicked)
        np.testing.assert_allclose(counts.sum_p, sum_p, rtol=1e-6)


def test_a_label_is_not_counted_before_it_is_due() -> None:
    found = counting()
    found.answered([answered("canary", CANARY, 1, 100, [1, 2])])
    found.clicked([(1, 200)])
    found.label(100 + LABEL_US - 1)
    assert found.canary.impressions.sum() == 0
    found.label(100 + LABEL_US)
    assert (found.canary.impressions.sum(), found.canary.clicks.sum()) == (2, 1)
    found.label(10 * LABEL_US)
    assert found.canary.impressions.sum() == 2

"""Users by Zipf, and requests as they go over the wire."""

import json

import numpy as np

from pipelines.bench.population import body, message, zipf
from serving.scorer import RankRequest


def test_users_are_drawn_in_proportion_to_a_power_of_their_rank() -> None:
    ranked = np.array([900, 30, 7, 12, 55])
    n, exponent = 200_000, 0.99
    drawn = zipf(np.random.default_rng(5), ranked, n, exponent)
    chances = [1 / rank**exponent for rank in range(1, 6)]
    for user, chance in zip(ranked, chances, strict=True):
        expected = chance / sum(chances)
        assert abs((drawn == user).mean() - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


def test_draws_stay_among_the_users_and_reach_the_rare_ones() -> None:
    ranked = np.arange(1000) * 3
    drawn = zipf(np.random.default_rng(6), ranked, 100_000)
    assert set(drawn.tolist()) <= set(ranked.tolist())
    assert len(set(drawn.tolist())) > 990


def test_a_message_is_a_body_with_a_head_and_a_body_is_one_line() -> None:
    request = RankRequest(7, np.array([3, 1]), 2, {"device": "tv", "page_topic": 4})
    content = body(request)
    assert b"\n" not in content
    assert json.loads(content) == {"user_id": 7, "candidates": [3, 1], "slots": 2, "context": {"device": "tv", "page_topic": 4}}
    head, _, rest = message(content, "/x").partition(b"\r\n\r\n")
    assert rest == content
    assert head.startswith(b"POST /x HTTP/1.1\r\n")
    assert f"Content-Length: {len(content)}".encode() in head
    assert "user_id" not in json.loads(body(RankRequest(-1, np.array([3]), 1, {})))

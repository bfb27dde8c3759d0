"""Users read ahead from a real Redis: the same rows, deadlines, and what happens when it hangs, dies and comes back."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import uvloop
from real_redis import RealRedis

from features.batch import MISSING, STALE, OneRequest
from features.online import OnlineSource
from features.online_redis_reader import LATE_IN_A_ROW, PAUSE_S, RedisReader, StoreUnavailable
from features.online_users import JUST_S
from features.requests import from_impressions
from features.sources import AsOfSource
from infra.lake import Lake
from pipelines.materialize import materialize_online


async def connected(reader: RedisReader) -> None:
    while not reader.ready:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])  # servers run on uvloop
def test_reads_ahead_give_what_the_as_of_source_gives_and_degrade_step_by_step(market, real_redis, run):
    """Read, then kept; the server gone: kept rows as stale features, others as priors; back again: whole again."""
    spec, url = market.spec, real_redis.url
    materialize_online(market.home, spec, market.now_us, url)
    shown = from_impressions(Lake.of(market.home).read("impressions"), spec.context)
    users, ads = np.unique(shown.user_id[shown.user_id >= 0]), np.unique(shown.ad_id)[:20]
    context = {name: values[0].item() for name, values in shown.context.items()}

    def asked(user: int) -> OneRequest:
        return OneRequest(int(users[user]), ads, market.now_us, context)

    def expected(user: int):
        return AsOfSource(market.home, spec.entities, spec.context).fetch(asked(user)).columns

    async def answer(source: OnlineSource, user: int):
        ahead = source.prefetch(int(users[user]))
        if ahead is not None:
            await ahead
        return source.fetch(asked(user))

    async def play() -> None:
        source = OnlineSource(market.home, spec.entities, spec.context, url=url, degrade=True)
        source.keep_fresh()
        source.read_ahead(timeout_s=60.0)
        await connected(source._reader)
        for _ in range(2):
            for user in range(3):
                got = await answer(source, user)
                assert got.degraded == ""
                for name, values in expected(user).items():
                    np.testing.assert_array_equal(got.columns[name], values, name)
        assert source.users.counts == {"misses": 3, "hits": 3}
        before = source._known.users
        await asyncio.to_thread(materialize_online, market.home, spec, market.now_us, url)
        while source._known.users == before:  # users were written: what is kept is not used again while it can be read
            await asyncio.sleep(0.01)
        real_redis.kill()
        while source._reader.ready:
            await asyncio.sleep(0.01)
        await asyncio.sleep(JUST_S)  # what was read before counts no longer as read for this request
        known, new = await answer(source, 0), await answer(source, 5)
        assert (known.degraded, new.degraded) == ("stale features", "priors")
        assert known.views["user_daily"].status.tolist() == [STALE] * len(ads)
        assert new.views["user_daily"].status.tolist() == [MISSING] * len(ads)
        np.testing.assert_array_equal(known.columns["user_ctr"], expected(0)["user_ctr"])
        assert np.isnan(new.columns["user_ctr"]).all()
        np.testing.assert_array_equal(new.columns["ad_ctr"], expected(5)["ad_ctr"])
        assert source.counts["store.unavailable"] == 2
        real_redis.start()
        await asyncio.to_thread(materialize_online, market.home, spec, market.now_us, url)
        await connected(source._reader)
        back = await answer(source, 5)
        assert back.degraded == ""
        np.testing.assert_array_equal(back.columns["user_ctr"], expected(5)["user_ctr"])
        source.close()

    run(play())


def test_a_store_that_hangs_costs_a_few_deadlines_and_then_nothing(real_redis: RealRedis, tmp_path: Path):
    async def play() -> None:
        reader = RedisReader(real_redis.url, timeout_s=1.0)
        await connected(reader)
        assert await reader.read(b"nobody", ["a", "b"]) == [None, None]
        real_redis.hang()
        late = [reader.read(b"nobody", ["a"]) for _ in range(LATE_IN_A_ROW)]
        found = await asyncio.gather(*late, return_exceptions=True)
        assert [type(error) for error in found] == [StoreUnavailable] * LATE_IN_A_ROW
        assert not reader.ready
        real_redis.go_on()
        await asyncio.sleep(PAUSE_S)
        await connected(reader)
        assert await reader.read(b"nobody", ["c"]) == [None]  # late answers were dropped, not mistaken for this one's
        reader.close()

    asyncio.run(play())


def test_a_refusal_and_a_wrong_password_are_errors_of_the_reader(tmp_path: Path):
    server = RealRedis(tmp_path, "--requirepass", "secret")
    try:

        async def play(url: str) -> object:
            reader = RedisReader(url, timeout_s=60.0)
            await connected(reader)
            try:
                return (await asyncio.gather(reader.read(b"k", ["f"]), return_exceptions=True))[0]
            finally:
                reader.close()

        right = f"redis://:secret@127.0.0.1:{server.port}/2"
        assert asyncio.run(play(right)) == [None]
        for wrong in (server.url, f"redis://:guess@127.0.0.1:{server.port}"):
            refused = asyncio.run(play(wrong))
            assert isinstance(refused, StoreUnavailable)
            assert "NOAUTH" in str(refused)
            assert "guess" not in str(refused)
    finally:
        server.kill()


def test_without_a_server_there_is_nothing_to_wait_for():
    async def play() -> None:
        reader = RedisReader("redis://127.0.0.1:1", timeout_s=1.0)
        assert not reader.ready
        with pytest.raises(StoreUnavailable, match="no connection"):
            await reader.read(b"k", ["f"])
        reader.close()

    asyncio.run(play())

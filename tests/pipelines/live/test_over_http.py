"""The market's clicks reach a real endpoint over HTTP and come back as they were taken in."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from patience import PATIENCE_S

from features.schemas import CLICKS, TIME
from infra.clock import MINUTE_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from pipelines.live.endpoint import drill_app
from pipelines.live.over_http import OverHttp
from pipelines.live.pace import Pace
from serving.champion import champion

TOKEN, WRITE_TOKEN = "a-drill-token-of-its-own", "a-write-token-of-its-own"


@contextmanager
def endpoint(work: Home, chosen: Settings) -> Iterator[int]:
    """The port of a drill's endpoint, ready."""
    config = uvicorn.Config(drill_app(work, chosen, TOKEN, champion(work).hash), log_level="warning")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def clicks(now_us: int, count: int) -> pa.Table:
    """Clicks that arrive one after the other."""
    arrived = now_us + np.arange(count) * 1_000
    times = [pa.array(at).cast(TIME) for at in (arrived - MINUTE_US, arrived)]
    return pa.table([pa.array(np.arange(count) + 7), pa.array(np.arange(count) + 2**62), *times], schema=CLICKS)


def sent(ask: OverHttp, rows: pa.Table) -> pa.Table:
    """What came of clicks; waits for the endpoint to load its model."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask.clicked(rows)
        except ExplainedError as error:
            if "can't be taken yet" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("write_token", ["", WRITE_TOKEN])
def test_clicks_are_taken_at_their_simulated_times(work: Home, chosen: Settings, write_token: str) -> None:
    settings = Settings(**{**chosen.model_dump(), "write_token": write_token})
    day_ahead_us = watermark_us(work) + 24 * 60 * MINUTE_US
    with endpoint(work, settings) as port, closing(OverHttp(work, port, TOKEN, Pace(0, 0), write_token)) as ask:
        for first in (0, 20):
            rows = clicks(day_ahead_us, 40).slice(first, 20)
            assert sent(ask, rows).equals(rows)
        assert ask.clicked(rows.slice(0, 0)).num_rows == 0


def test_a_click_that_is_not_taken_is_an_error(work: Home, chosen: Settings) -> None:
    settings = Settings(**{**chosen.model_dump(), "write_token": WRITE_TOKEN})
    with (
        endpoint(work, settings) as port,
        closing(OverHttp(work, port, TOKEN, Pace(0, 0))) as ask,
        pytest.raises(ExplainedError, match="write token"),
    ):
        ask.clicked(clicks(watermark_us(work), 1))

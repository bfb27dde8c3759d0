"""A real server on a free port of the loopback interface, in a thread of the test's process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI
from patience import PATIENCE_S

from serving.connections import within_limits
from serving.front_door import front_door
from serving.waiting_room import WaitingRoom


@contextmanager
def running(app: FastAPI, room: WaitingRoom | None = None) -> Iterator[int]:
    """The port that `app` is served on through the front door, as `clickproof serve` does; stopped gracefully afterwards."""
    handler = app.state.rank
    config = uvicorn.Config(app, log_level="warning", **within_limits(handler.settings, front_door(handler, room)))
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield port
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def client_of(app: FastAPI) -> Iterator[httpx.Client]:
    """An HTTP client of a running server."""
    with running(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        yield client

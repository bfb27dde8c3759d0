"""The gRPC door: `clickproof.v1.Ranking/Rank` beside POST /v1/rank, in the same process, event loop and waiting room.

It knows gRPC and nothing else: what is asked, answered, counted and refused is `serving.rank_handler`'s and the room's.  A call
is taken as the bytes that came, so that one which is refused under overload is not even parsed.  Used by `serving.serve`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import Any

import grpc
import grpc.aio
from fastapi import FastAPI

from infra.settings import Settings
from serving.grpc_messages import GRPC
from serving.rank_handler import Reply
from serving.waiting_room import WaitingRoom

SERVICE = "clickproof.v1.Ranking"
HEALTH = "grpc.health.v1.Health"
GRACE_S = 10.0  # for the calls under way when the server stops
# Connections end after some minutes and are made anew, which no caller notices: a connection belongs to one worker for as long
# as it lasts, and whoever opens calls without ever sending a message can't hold them for longer.
AGE_S, AGE_GRACE_S = 300.0, 10.0
# What HTTP's status of a reply is called here.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
GONE, TOO_LATE = 499, 504  # calls that nobody waits for any more, counted like HTTP's: the caller left, the deadline is over
# grpc.health.v1: a request is the service's name as field 1, an answer the enum SERVING = 1 or NOT_SERVING = 2 as field 1.
_ASKED = (b"", b"\n" + bytes([len(SERVICE)]) + SERVICE.encode())
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

_log = logging.getLogger("clickproof.serving")


class Call:
    """One call's place in the waiting room."""

    __slots__ = ("_deadline_ns", "answer", "body", "left", "started_ns")

    def __init__(self, body: bytes, remaining_s: float | None) -> None:
        self.body = [body]
        self.started_ns = perf_counter_ns()
        self.left = False
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._deadline_ns = None if remaining_s is None else self.started_ns + int(remaining_s * 1e9)

    @property
    def disconnected(self) -> bool:
        """Whether the caller left, or its deadline is over: gRPC itself answers then."""
        return self.left or (self._deadline_ns is not None and perf_counter_ns() >= self._deadline_ns)


class GrpcDoor:
    """The service's methods; bytes in, bytes out."""

    wire = GRPC

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room
        self._handler = room.handler

    async def rank(self, body: bytes, context: Any) -> bytes:
        """See `Rank` in clickproof.proto."""
        call = Call(body, context.time_remaining())
        self._room.enter(self, call, one_by_one=True)
        try:
            reply = await call.answer
        except asyncio.CancelledError:
            if call.answer.cancelled():  # and not answered at the same moment
                self._handler.metrics.ended(GRPC.route, TOO_LATE if call.disconnected else GONE)
                call.left = True
            raise
        if reply.error is None:
            return reply.content
        field, message = reply.error.field, reply.error.message
        again = reply.retry_after_s
        return await context.abort(  # it raises
            grpc.StatusCode.RESOURCE_EXHAUSTED if reply.shed else CODES[reply.status],
            message if field is None else f"{field}: {message}",
            () if again is None else (("grpc-retry-pushback-ms", str(again * 1000)),),
        )

    def reply(self, turn: Call, reply: Reply) -> None:
        """Hand a call its answer."""
        if not turn.answer.done():
            turn.answer.set_result(reply)

    async def check(self, body: bytes, context: Any) -> bytes:
        """See grpc.health.v1: whether a model is loaded."""
        if body not in _ASKED:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there are the services '' and '{SERVICE}' here")
        return _NOT_SERVING if self._handler.state.service is None else _SERVING


def options(settings: Settings) -> list[tuple[str, int]]:
    """The settings' limits in gRPC's words.  What is too much for the room, or waits there too long, is refused there with a
    hint; a client with twice as many calls open on one connection keeps what is more to itself."""
    return [
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message must not become a large one
        ("grpc.max_concurrent_streams", 2 * settings.max_waiting),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_metadata_size", settings.max_head_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_head_bytes),
        ("grpc.server_handshake_timeout_ms", int(settings.request_seconds * 1000)),
        ("grpc.max_connection_age_ms", int(AGE_S * 1000)),
        ("grpc.max_connection_age_grace_ms", int(AGE_GRACE_S * 1000)),
    ]


def add_grpc(app: FastAPI, room: WaitingRoom, settings: Settings) -> None:
    """Open the door on the settings' `grpc_port` for as long as an app of `serving.app` runs; calls under way are answered
    before the app ends, because it then closes the log."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(whole: FastAPI) -> AsyncIterator[Any]:
        async with inner(whole) as state:
            server = _server(room, settings)
            await server.start()
            _log.info("gRPC: %s on %s port %d", SERVICE, settings.host, settings.grpc_port)
            try:
                yield state
            finally:
                await server.stop(GRACE_S)

    app.router.lifespan_context = lifespan


def _server(room: WaitingRoom, settings: Settings) -> grpc.aio.Server:
    door = GrpcDoor(room)
    server = grpc.aio.server(options=options(settings))
    for service, methods in ((SERVICE, {"Rank": door.rank}), (HEALTH, {"Check": door.check})):
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        server.add_registered_method_handlers(service, handlers)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    return server

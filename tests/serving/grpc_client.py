"""Both doors of a small server, and a client of the gRPC one that is made as docs/serving.md says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from front_door_server import running
from patience import PATIENCE_S
from ports import free_port

from infra.settings import Settings
from serving import clickproof_pb2 as pb
from serving.app import create_app
from serving.grpc_door import add_grpc
from serving.rank_handler import RankHandler, Service
from serving.waiting_room import WaitingRoom

RANK = "/clickproof.v1.Ranking/Rank"
CHECK = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True)
class Ranking:
    """Calls on one channel."""

    channel: grpc.Channel

    @property
    def rank(self) -> Any:
        return self.channel.unary_unary(
            RANK, request_serializer=pb.RankRequest.SerializeToString, response_deserializer=pb.RankAnswer.FromString
        )

    def send(self, body: bytes, path: str = RANK, **more: Any) -> bytes:
        """The bytes of the answer to bytes."""
        found: bytes = self.channel.unary_unary(path)(body, timeout=PATIENCE_S, **more)
        return found

    def refused(self, body: bytes, path: str = RANK, **more: Any) -> grpc.Call:
        """The error that these bytes are answered with; fails where there is none."""
        try:
            said = self.send(body, path, **more)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"answered: {said!r}")


@contextmanager
def calling(port: int) -> Iterator[Ranking]:
    """A client with a connection of its own."""
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", own) as channel:
        yield Ranking(channel)


@dataclass(frozen=True)
class Doors:
    """A running server's two doors, and what is behind them."""

    rest: httpx.Client
    grpc: Ranking
    handler: RankHandler


@contextmanager
def both_doors(load: Callable[[], Service], **chosen: Any) -> Iterator[Doors]:
    """A server with these settings in a thread, and a client for each of its doors."""
    settings = Settings(grpc_port=free_port(), **chosen)
    app = create_app(load, settings)
    room = WaitingRoom(app.state.rank)
    add_grpc(app, room, settings)
    with (
        running(app, room) as port,
        calling(settings.grpc_port) as ranking,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as rest,
    ):
        yield Doors(rest, ranking, app.state.rank)


def message(request_id: int | None = None, **fields: Any) -> pb.RankRequest:
    """A good request with these fields changed; a context is given as a dict of text and numbers."""
    context = fields.pop("context", {"device": "mobile", "page_topic": 3})
    given = {
        name: pb.ContextValue(text=value) if isinstance(value, str) else pb.ContextValue(number=value)
        for name, value in context.items()
    }
    good = {"user_id": 3, "candidates": [1, 2, 3, 4, 5], "slots": 2, "request_id": request_id}
    return pb.RankRequest(**{**good, **fields}, context=given)

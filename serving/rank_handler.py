"""From the bytes of a request to the bytes of its answer: what all doors do.

The doors are the route POST /v1/rank of `serving.app`, the same without a web framework between (`serving.front_door`), and
gRPC (`serving.grpc_door`).  Each has its `Wire`, how it writes things; what is asked and answered is the same.

Bodies go through msgspec and numpy, not through pydantic rows, which cost several times the model itself.  Everything runs in
the event loop on purpose: it is short and bound by the processor, so a hand-over to threads would only add to it; more
processes scale it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import NamedTuple

import msgspec

from features.catalogue import Kind
from features.online import OnlineSource
from infra.logs import about
from infra.settings import Settings
from serving.messages import (
    ErrorAnswer,
    InvalidRequest,
    ModelAnswer,
    Problem,
    RankAnswer,
    RankBody,
    decode,
    to_answer,
    to_request,
)
from serving.metrics import ServingMetrics
from serving.refusals import Refusals
from serving.scorer import Answer, RankRequest, Scorer

JSON = "application/json"
_log = logging.getLogger("clickproof.serving")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoint serves: a scorer, the context fields that it takes, and how it describes itself."""

    scorer: Scorer
    context: Mapping[str, Kind]
    description: ModelAnswer


class ServerState:
    """What changes while the server runs: the service once loaded, or why it could not be loaded."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.failure: str | None = None


class Wire(NamedTuple):
    """How a door writes requests and answers."""

    route: str  # label in the metrics
    read: Callable[[bytes], RankBody]  # raises InvalidRequest
    write: Callable[[RankAnswer], bytes]


REST = Wire("rank", decode, _encode)


class Reply(NamedTuple):
    """An answer to be sent: what its wire wrote, or what was wrong; `retry_after_s` where it makes sense to ask again."""

    status: int  # HTTP's, also where the door speaks otherwise
    content: bytes = b""
    error: Problem | None = None
    retry_after_s: int | None = None
    shed: bool = False  # refused only because too many wait

    @property
    def json(self) -> bytes:
        """The body that REST sends."""
        return self.content if self.error is None else _encode(ErrorAnswer(self.error))


class Wanted(NamedTuple):
    """A request that was read, the service that it was read for, and how its answer is written."""

    service: Service
    request: RankRequest
    decode_ns: int
    wire: Wire


class RankHandler:
    """Answers requests with the service of the moment."""

    def __init__(self, state: ServerState, settings: Settings, metrics: ServingMetrics) -> None:
        self.state = state
        self.settings = settings
        self.metrics = metrics
        self.refusals = Refusals()
        self._counting_ns = 0  # of the request before: part of its answer, and known too late for it

    def read(self, body: bytes, wire: Wire = REST) -> "Wanted | Reply":
        """What a body asks, or why it can't be answered.  Never raises."""
        service = self.state.service
        if service is None:
            return self.refused(unready(self.state), wire)
        began = perf_counter_ns()
        given: int | None = None
        try:
            asked = wire.read(body)
            given = asked.request_id
            if given is None:
                asked.request_id = service.scorer.new_id()
            request = to_request(asked, service.context, self.settings.max_candidates)
        except InvalidRequest as error:
            return self.refused(problem(error.status, error.field, error.message), wire, body, given)
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the reason
            return self._failed(wire, body, given)
        return Wanted(service, request, perf_counter_ns() - began, wire)

    def ahead(self, wanted: "Wanted") -> "asyncio.Future[None] | None":
        """Begin to read what the request needs from a remote store; None where there is nothing to wait for."""
        source = wanted.service.scorer.source
        return source.prefetch(wanted.request.user_id) if isinstance(source, OnlineSource) else None

    def answer(self, wanted: "Wanted", started_ns: int) -> Reply:
        """The reply to a request; `started_ns` (perf_counter_ns) is when its first byte was seen.  Never raises."""
        return self.answer_many([wanted], [started_ns])[0]

    def answer_many(self, wanted: "Sequence[Wanted]", started_ns: Sequence[int]) -> list[Reply]:
        """The replies to requests that were read for the same service, with one call of the model."""
        service, began = wanted[0].service, perf_counter_ns()
        before = about.set([one.request.request_id for one in wanted])
        try:
            answers = service.scorer.rank_many([one.request for one in wanted])
        except OSError:
            _log.exception("a request could not be answered")
            message = "the prediction log or the feature store failed; the server's own log says why"
            reply = problem(503, None, message, retry_after_s=1)
            return [self.refused(reply, one.wire, request_id=one.request.request_id) for one in wanted]
        except Exception:  # noqa: BLE001 - see `read`
            if len(wanted) > 1:  # one that can't be answered must not take the others with it
                return [self.answer(one, started) for one, started in zip(wanted, started_ns, strict=True)]
            return [self._failed(wanted[0].wire, request_id=wanted[0].request.request_id)]
        finally:
            about.reset(before)
        between_ns = (
            perf_counter_ns() - began - sum(sum(answer.stage_ns) for answer in answers)
        )  # stages: a part of each answer
        share_ns = between_ns // len(wanted)
        told = zip(wanted, answers, started_ns, strict=True)
        return [self._told(one, answer, started, share_ns) for one, answer, started in told]

    def _told(self, wanted: "Wanted", answer: Answer, started_ns: int, between_ns: int) -> Reply:
        ranked = perf_counter_ns()
        content = wanted.wire.write(to_answer(wanted.request, answer, wanted.service.description.policy))
        ended = perf_counter_ns()
        self.metrics.ranked(answer, wanted.decode_ns, ended - ranked + between_ns + self._counting_ns, ended - started_ns)
        self.metrics.ended(wanted.wire.route, 200)
        self._counting_ns = perf_counter_ns() - ended
        return Reply(200, content)

    def _failed(self, wire: Wire, body: bytes = b"", request_id: int | None = None) -> Reply:
        _log.exception("a request could not be answered")
        reply = problem(500, None, "the server failed; its own log says why")
        return self.refused(reply, wire, body, request_id)

    def refused(self, reply: Reply, wire: Wire = REST, body: bytes = b"", request_id: int | None = None) -> Reply:
        """Count a reply that is no success, and tell the log; the request's id is in its body (of REST) where not given."""
        self.metrics.ended(wire.route, reply.status)
        self.refusals.tell(wire.route, reply.status, body if wire is REST else b"", request_id)
        return reply


def problem(status: int, field: str | None, message: str, retry_after_s: int | None = None) -> Reply:
    """A reply that says what was wrong."""
    return Reply(status, error=Problem(field, message), retry_after_s=retry_after_s)


def unready(state: ServerState) -> Reply:
    """503, with the reason."""
    if state.failure is not None:
        return problem(503, None, f"no model could be loaded: {state.failure}")
    return problem(503, None, "the model is being loaded; try again shortly", retry_after_s=1)


def body_problem(content_type: str, content_encoding: str, content_length: str, limit: int) -> Reply | None:
    """What the headers of a request already say against its body: 415 for another type or encoding, 413 for its length."""
    kind, _, parameters = content_type.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != JSON or charset not in ("", "utf-8"):
        return problem(415, None, "send JSON in UTF-8, with the header 'Content-Type: application/json'")
    if content_encoding.lower() not in ("", "identity"):
        return problem(415, None, "send the body uncompressed, without a Content-Encoding")
    if content_length.isdigit() and int(content_length) > limit:
        return too_long(limit)
    return None


def too_long(limit: int) -> Reply:
    """413."""
    return problem(413, None, f"the body is longer than {limit} bytes, the most this server takes")

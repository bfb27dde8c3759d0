"""POST /v1/events: clicks come in, are written to the event log, and only then acknowledged.

`add_events` puts the route on the app; `serving.serve` and the drill's endpoint do.  Sending a click again is safe: it has one
id, given or derived from its impression's.  What was sent again lately is recognised here, anything else (after a restart, by
another process) by ingestion.  So a client that got no answer sends again, and every click counts once.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from features.ids import click_id
from infra.clock import DAY_US, MINUTE_US, Clock, to_datetime, to_us
from infra.home import Home
from infra.settings import Settings
from serving.app import read_body, response
from serving.document import content, responses
from serving.event_log import Click, Clicks, EventLog
from serving.event_messages import Receipt, SentClick, SentClicks
from serving.messages import InvalidRequest, decode_as
from serving.metrics import ServingMetrics
from serving.rank_handler import Reply
from serving.write_token import check_writer

RECENT_CLICKS = 100_000  # ids that a process remembers, some 15 MB: minutes of clicks, and clients try again within seconds
PAST_US = 7 * DAY_US  # ingestion waits no longer for a click's impression (features.click_matching.WAIT_DAYS)
FUTURE_US = MINUTE_US  # clocks differ by seconds; a click this little ahead is taken to have happened on arrival
_RETRY = {"Retry-After": "1"}
_LARGEST_ID = 2**63 - 1
_log = logging.getLogger("clickproof.serving")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ONE, _MANY = msgspec.json.Decoder(SentClick), msgspec.json.Decoder(SentClicks)


class ClickIntake:
    """Takes clicks in: an event log, a clock, and the ids of late.  For one thread, that of the event loop."""

    def __init__(self, home: Home, recent: int = RECENT_CLICKS) -> None:
        """Writes nothing until it is opened; remembers `recent` ids."""
        self._home, self._most = home, recent
        self._opened: tuple[EventLog, Clock] | None = None
        self._recent: OrderedDict[int, None] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether clicks can be taken."""
        return self._opened is not None

    def open(self, clock: Clock) -> EventLog:
        """Start a segment of the log that is returned; `clock` says when a click arrives.  It should be the scorer's: no click
        may come before its impression.  Opening again does nothing.  Raises OSError, ReadOnlyHome."""
        self._opened = self._opened or (EventLog(self._home), clock)
        return self._opened[0]

    def take(self, sent: Sequence[SentClick], many: bool = True) -> Receipt:
        """Write what is new, in one record; when this returns it survives SIGKILL.

        All or nothing: raises InvalidRequest that names the first wrong field (as `clicks[i].FIELD`, or as FIELD where not
        `many`), and OSError where the log can't be written."""
        if self._opened is None:
            raise ValueError("this intake is not open")
        log, clock = self._opened
        now_us = clock.now_us()
        clicks: dict[int, Click] = {}
        for click in completed(sent, now_us, many):
            if click.click_id not in self._recent:
                clicks.setdefault(click.click_id, click)
        if clicks:
            log.append(Clicks(now_us, list(clicks.values())))
        self._recent.update(dict.fromkeys(clicks))
        while len(self._recent) > self._most:
            self._recent.popitem(last=False)
        return Receipt(len(clicks), len(sent) - len(clicks))

    def close(self) -> None:
        """Close the segment.  Raises OSError where it can't be brought to the disk."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None


def completed(sent: Sequence[SentClick], now_us: int, many: bool) -> list[Click]:
    """The clicks that were sent, with everything that was left out.  Raises InvalidRequest."""
    impressions, ids, times = [], [], []
    for place, click in enumerate(sent):
        where = f"clicks[{place}]." if many else ""
        impressions.append(_id(click.impression_id, f"{where}impression_id"))
        ids.append(None if click.click_id is None else _id(click.click_id, f"{where}click_id"))
        times.append(_time_us(click.time, now_us, f"{where}time"))
    derived = click_id(np.array(impressions, np.int64)).tolist()
    return [
        Click(made if given is None else given, impression, time_us)
        for given, made, impression, time_us in zip(ids, derived, impressions, times, strict=True)
    ]


def _id(given: int | str, field: str) -> int:
    number = int(given)
    if number > _LARGEST_ID:
        raise InvalidRequest(422, field, f"must be at most {_LARGEST_ID}: ids are whole numbers of 63 bits")
    return number


def _time_us(given: int | datetime | None, now_us: int, field: str) -> int:
    """When it happened, us: never after `now_us`, since nothing arrives before it happens."""
    if given is None:
        return now_us
    at_us = to_us(given) if isinstance(given, datetime) else given
    if now_us - PAST_US <= at_us <= now_us + FUTURE_US:
        return min(at_us, now_us)
    away = "more than a minute after" if at_us > now_us else "more than seven days before"
    raise InvalidRequest(
        422,
        field,
        f"{at_us} us is {away} this server's clock, {to_datetime(now_us).isoformat()} or {now_us} us; send microseconds "
        "since 1970 (UTC) or ISO 8601 with an offset, set the sender's clock, or leave the time out",
    )


def decode(body: bytes) -> tuple[list[SentClick], bool]:
    """(clicks, whether they came as a list).  Raises InvalidRequest."""
    if "clicks" in decode_as(_FIELDS, body):
        return decode_as(_MANY, body).clicks, True
    return [decode_as(_ONE, body)], False


def add_events(app: FastAPI, intake: ClickIntake, settings: Settings, metrics: ServingMetrics) -> None:
    """Put POST /v1/events on an app of `serving.app`; the intake is closed when the app ends.

    Until somebody opens the intake the route answers 503."""

    @app.post(
        "/v1/events",
        status_code=202,
        summary="Say which ads were clicked",
        openapi_extra={"requestBody": {"required": True, "content": content("SentClicks", "SentClick")}},
        responses=responses(202, "Receipt", "Written down.", _REASONS, *_REASONS),
    )
    async def events(request: Request) -> Response:
        check_writer(request, settings.write_token)
        body = await read_body(request, settings.max_body_bytes)
        if isinstance(body, Reply):
            metrics.ended("events", body.status)
            app.state.rank.refusals.tell("events", body.status)
            return response(body)
        sent, many = decode(body)
        if not intake.is_open:
            raise HTTPException(503, "clicks can't be taken yet; GET /readyz says why; send them again", _RETRY)
        try:
            receipt = intake.take(sent, many)
        except OSError as error:
            _log.exception("clicks could not be written")
            raise HTTPException(503, "the event log can't be written, nothing was taken; send it again", _RETRY) from error
        metrics.clicked(receipt.accepted, receipt.duplicate)
        metrics.ended("events", 202)
        return Response(msgspec.json.encode(receipt), 202, media_type="application/json")

    _close_at_the_end(app, intake)


def _close_at_the_end(app: FastAPI, intake: ClickIntake) -> None:
    """The app's own end comes first: it waits for its loading, which may still open the intake."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(whole: FastAPI) -> AsyncIterator[Any]:
        try:
            async with inner(whole) as state:
                yield state
        finally:
            intake.close()

    app.router.lifespan_context = lifespan


_REASONS = {
    400: "The body is not JSON.",
    401: "The write token is missing or wrong.",
    403: "No write token is set, and the client is not on this machine.",
    413: "The body is too long.",
    415: "Not JSON in UTF-8, or compressed.",
    422: "A field is wrong; it is named, and no click of the request was taken.",
    503: "Nothing could be written; send it again.",
}

"""How a server process writes its log: lines for people, or one JSON object a line for programs (`CLICKPROOF_LOG_FORMAT`).

Called by `serving.serve` where a process begins.  Whatever logs while requests are answered need not know which: it is in
`about` as long as that lasts, and on every line.  Nothing secret is in a line (see `infra.redaction`).
"""

import json
import logging
import logging.config
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal

from uvicorn.logging import DefaultFormatter

from infra.clock import to_datetime
from infra.redaction import redacted

about: ContextVar[Sequence[int | None]] = ContextVar("about", default=())  # ids of the requests that are being answered
_log = logging.getLogger("clickproof")


class JsonLines(logging.Formatter):
    """time (ISO 8601, UTC), level, logger, message; where there is one: request_id (request_ids of several that share a call of
    the model), worker, what `extra={"fields": {...}}` gives, exception."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line: dict[str, Any] = {
            "time": to_datetime(int(record.created * 1e6)).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_places(record, self._worker),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redacted(record.exc_text or self.formatException(record.exc_info))
        return json.dumps(line)


class TextLines(DefaultFormatter):
    """uvicorn's lines, with the part of the system before the message where that is not the endpoint, and the request and the
    worker behind it."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__("%(levelprefix)s %(message)s")
        self._worker = worker

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See logging."""
        part = record.name.removeprefix("clickproof.")
        if part != record.name and part != "serving":
            record.message = f"{part}: {record.message}"
        places = [f"{name} {value}" for name, value in _places(record, self._worker).items() if name in _SHOWN]
        return super().formatMessage(record) + (f" [{', '.join(places)}]" if places else "")


_SHOWN = ("request_id", "request_ids", "worker")


def _places(record: logging.LogRecord, worker: int | None) -> dict[str, Any]:
    """What a line belongs to."""
    ids = about.get()
    found: dict[str, Any] = {"request_id": ids[0]} if len(ids) == 1 else {"request_ids": list(ids)} if ids else {}
    return found | ({} if worker is None else {"worker": worker}) | getattr(record, "fields", {})


def begin(form: Literal["text", "json"], worker: int | None = None) -> None:
    """From now on this process logs to standard error in this form; `worker` is its number where there are several."""
    lines = JsonLines if form == "json" else TextLines
    ours = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"()": lines, "worker": worker}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "lines"}},
            "loggers": {"clickproof": ours, "uvicorn": ours},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
        }
    )
    if form == "json":
        logging.captureWarnings(True)
        sys.excepthook = _last_line


def _last_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("the process ends", exc_info=(kind, error, trace))

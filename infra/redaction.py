"""Keeps secrets out of what this process says: tokens, passwords in URLs, webhook addresses.

`infra.settings.use` hides the secret settings; after `guard`, logs and tracebacks go through `redacted`, as error messages do.
"""

import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

STARS = "***"
_SHORTEST = 4  # of what is replaced anywhere: fewer characters are part of too many words
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")  # user:password in any URL, whoever it belongs to
_hidden: set[str] = set()


def hide(*secrets: str) -> None:
    """From now on `redacted` takes these out: tokens whole; of a URL its password and its query, which may be signed."""
    for secret in secrets:
        url = urlsplit(secret)
        parts = (url.password, url.query) if url.scheme and url.netloc else (secret,)
        _hidden.update(form for part in parts if part for form in (part, unquote(part)) if len(form) >= _SHORTEST)


def hide_whole(url: str) -> None:
    """As `hide`, for an address that is itself the key: what comes after the host is hidden too."""
    hide(url)
    path = urlsplit(url).path
    if len(path) >= _SHORTEST:
        _hidden.add(path)


def redacted(text: str) -> str:
    """The text with stars in the place of every hidden secret, and of the login in every URL."""
    text = _LOGIN.sub(STARS, text)
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, STARS)
    return text


class RedactedRecord(logging.LogRecord):
    """A line of a log, redacted whoever writes it and whatever prints it; its traceback too."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = redacted("".join(traceback.format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:
        """See logging."""
        return redacted(super().getMessage())


def guard() -> None:
    """From now on nothing secret is logged by this process, or printed when an exception ends it or one of its threads.

    Called where a process begins."""

    def say(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))

    def say_of_thread(ended: threading.ExceptHookArgs) -> None:
        say(ended.exc_type, ended.exc_value, ended.exc_traceback)

    sys.excepthook, threading.excepthook = say, say_of_thread
    logging.setLogRecordFactory(RedactedRecord)

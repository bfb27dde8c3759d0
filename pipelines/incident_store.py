"""Incidents of a home on disk: an append-only file of JSON lines, a webhook to tell somebody, and people's words on them.

Each line is one incident as it was at one moment (`Incident.as_json` and `at_us`); the last line of a number counts.  The
monitor's side writes what was found; `clickproof incidents ack N` writes what a person says, and `said` hands that back.
"""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.clock import day_name
from infra.errors import ExplainedError
from infra.home import Home

TIMEOUT_S = 2.0
OPEN = ("new", "acknowledged")
WORDS = {"ack": "acknowledged", "normal": "acknowledged", "false-alarm": "false-alarm"}  # what a person may say -> state
_log = logging.getLogger(__name__)


class IncidentStore:
    """The incidents of one home."""

    def __init__(self, home: Home, webhook_url: str = "") -> None:
        """`webhook_url` is told of incidents that open or change their state; "" for nobody.  ExplainedError if no http(s).

        The address is often itself the key to a channel: it is never said, only its host is."""
        self.home = home
        self.path = home.root / "incidents" / "incidents.jsonl"
        self.webhook_url = checked_url(webhook_url)
        self.told = self.untold = 0  # webhook calls that were answered, and that failed
        self._written: dict[int, tuple[Any, ...]] = {}  # number -> what `record` compares, as last written by this object

    def all(self) -> dict[int, dict[str, Any]]:
        """Incidents by number, each as it was last; a line that a crash cut short is left out."""
        found: dict[int, dict[str, Any]] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                _log.warning("%s: a line is no JSON and is left out; a process was killed while it wrote", self.path)
                continue
            found[entry["number"]] = found.get(entry["number"], {}) | entry
        return found

    def one(self, number: int) -> dict[str, Any]:
        """The incident of that number; ExplainedError lists those there are."""
        known = self.all()
        if number not in known:
            there = ", ".join(map(str, known)) or "none yet"
            raise ExplainedError(f"no incident {number} in {self.path}; there are: {there}")
        return known[number]

    def record(self, incidents: Iterable[Mapping[str, Any]], at_us: int) -> None:
        """Write incidents (`Incident.as_json`) that are new or differ from when last written: in state, class, subject,
        or because they are the new normal now.

        The webhook is told of states that are new.
        """
        for incident in incidents:
            number = incident["number"]
            now = (incident["state"], incident["class"], incident["subject"], incident["new_normal"])
            before = self._written.get(number)
            if before == now:
                continue
            entry = {**incident, "at_us": at_us, "report": self._report(incident)}
            self._append(entry)
            self._written[number] = now
            if before is None or before[0] != now[0]:
                self._tell(entry)

    def say(self, number: int, word: str, at_us: int) -> dict[str, Any]:
        """A person's word: ack, normal (acknowledged as the new normal), false-alarm.  ExplainedError for closed incidents."""
        incident = self.one(number)
        if incident["state"] not in OPEN:
            raise ExplainedError(f"incident {number} is {incident['state']} already; only open ones can be changed")
        entry = {"number": number, "state": WORDS[word], "said": word, "at_us": at_us}
        self._append(entry)
        self._tell(incident | entry)
        return incident | entry

    def said(self) -> dict[int, str]:
        """The last word of a person on each incident that has one: ack, normal or false-alarm."""
        return {number: incident["said"] for number, incident in self.all().items() if incident.get("said")}

    def _report(self, incident: Mapping[str, Any]) -> str | None:
        """The Evidently report of the day in which it was opened, where one was drawn."""
        path = self.home.reports / f"drift-{day_name(incident['opened_us'] - 1)}.html"
        return str(path) if path.exists() else None

    def _append(self, entry: Mapping[str, Any]) -> None:
        path = self.home.writing(self.path)
        with path.open("a", encoding="utf-8") as file:  # one write of one line: appends of two processes don't mix
            file.write(json.dumps(plain(entry), sort_keys=True) + "\n")

    def _tell(self, entry: Mapping[str, Any]) -> None:
        if self.webhook_url:
            if post(self.webhook_url, plain(entry)):
                self.told += 1
            else:
                self.untold += 1


def checked_url(url: str) -> str:
    """The URL, if it is empty or http(s); ExplainedError otherwise."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ExplainedError("the webhook's URL (CLICKPROOF_WEBHOOK_URL) must begin with http:// or https:// and name a host")
    return url


def post(url: str, message: Mapping[str, Any]) -> bool:
    """Send JSON to a URL; False, with a word in the log, where nobody took it within `TIMEOUT_S`.  Monitoring goes on."""
    body = json.dumps(message, sort_keys=True).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, urllib.error.URLError, ValueError) as error:
        host = urlsplit(url).hostname
        _log.warning("the webhook at %s was not told of incident %s: %s", host, message.get("number"), error)
        return False


def plain(value: Any) -> Any:
    """The same with numbers that JSON knows: numpy's become Python's, and what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

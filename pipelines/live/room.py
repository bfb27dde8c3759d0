"""The control room: what runs, what is broken, what the monitors said, and the few things a person may do about it.

Its threads move the market, hand windows to the monitors' process and read the endpoint's pulse; the page asks `state` and
calls the actions.  Made by `pipelines.live.run`.
"""

import http.client
import json
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from infra.clock import HOUR_US
from infra.errors import ExplainedError
from infra.redaction import redacted
from monitoring.bugs.catalogue import BUGS
from monitoring.bugs.catalogue import bug as look_up
from monitoring.bugs.entry import Bug
from monitoring.classes import CLASSES
from monitoring.window import Window
from pipelines.incident_store import IncidentStore
from pipelines.live.evidence import Evidence
from pipelines.live.injection import Injection
from pipelines.live.measures import ROWS_A_PICTURE, Measures
from pipelines.live.over_http import OverHttp
from pipelines.live.pace import Pace, Stopped
from pipelines.live.system import System
from pipelines.live.token import HEADER
from pipelines.live.vitals import Vitals
from pipelines.watcher import Watcher

MOVED = 6  # features shown as moved most
WAITING = 2  # windows that may wait for the monitors before the market does
_GATE = {c.slug for c in CLASSES if c.judged == "gate"}


class Room:
    """Everything that the page shows and does."""

    def __init__(
        self,
        system: System,
        ask: OverHttp,
        pace: Pace,
        watcher: Watcher,
        measures: Measures,
        vitals: Vitals,
        token: str,
        store: IncidentStore | None = None,
    ) -> None:
        """`store` keeps incidents on disk and tells the webhook."""
        self.system, self.pace, self.measures, self.token = system, pace, measures, token
        self._ask, self._watcher, self._vitals, self._store = ask, watcher, vitals, store
        self.evidence = Evidence(measures)
        self._lock = threading.Lock()  # of what `state` reads
        self._asking = threading.Lock()  # of the watcher's pipe
        self._windows: queue.Queue[Window | None] = queue.Queue(maxsize=WAITING)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.started_us = system.now_us
        self.failure: str | None = None
        self._timeline: list[dict[str, Any]] = []
        self._incidents: list[dict[str, Any]] = []
        self._checks: dict[str, Any] = {"ran": [], "skipped": {}, "until_us": system.now_us, "notices": []}
        self._injections = 0
        self._at_injection = {"impressions": 0}
        self._seen_impressions = 0

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let time go on."""
        for work in (self._market, self._monitors, self._pulse):
            self._threads.append(threading.Thread(target=self._guarded, args=(work,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End the threads; the processes are the caller's."""
        self._stop.set()
        self.pace.stop()
        for thread in self._threads:
            thread.join(timeout=20)
        self._ask.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread that fails says so on the page, and time stops."""
        try:
            work()
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the page and the terminal say it
            if not self._stop.is_set():
                print(redacted(traceback.format_exc()), file=sys.stderr)
                self.failure = redacted(f"{type(error).__name__}: {error}")
                self.pace.stop()

    def _market(self) -> None:
        while not self._stop.is_set():
            for window in self.system.step(self._ask):
                while not self._stop.is_set():
                    try:
                        self._windows.put(window, timeout=0.5)
                        break
                    except queue.Full:
                        continue

    def _monitors(self) -> None:
        while not self._stop.is_set():
            try:
                window = self._windows.get(timeout=0.5)
            except queue.Empty:
                continue
            if window is not None:
                self._watch(window)

    def _pulse(self) -> None:
        while not self._stop.wait(1.0):
            self._vitals.read()

    def _watch(self, window: Window) -> None:
        """An hour is over: its figures, and what the monitors say."""
        with self._asking:
            seen = self._watcher.observe(window)
            incidents = self._watcher.incidents()
        with self._lock:
            self.measures.add(window)
            self.evidence.add(window)
            self._seen_impressions += window.log.num_rows
            notices = [f.as_json() for f in seen.findings if f.severity == "notice"]
            self._checks = {"ran": seen.ran, "skipped": dict(seen.skipped), "until_us": seen.end_us, "notices": notices}
            for opened in seen.opened:
                self._note("alarm", window.end_us, _title(opened), opened["number"])
            self._take(incidents, window.end_us)
        if self._store is not None:  # not while the page waits: a webhook may take its time
            self._store.record(incidents, window.end_us)

    def _take(self, incidents: list[dict[str, Any]], at_us: int) -> None:
        """The incidents as they are now; the timeline says which ended."""
        before = {incident["number"]: incident["state"] for incident in self._incidents}
        for incident in incidents:
            was = before.get(incident["number"], "new")
            if incident["state"] == "resolved" and was != "resolved":
                self._note("resolved", at_us, f"{_title(incident)} is over", incident["number"])
            incident["delay"] = self._delay(incident)
        self._incidents = incidents

    def _delay(self, incident: dict[str, Any]) -> dict[str, Any] | None:
        """How long after the last injection before it an incident was opened."""
        before = [e for e in self._timeline if e["kind"] == "inject" and e["at_us"] < incident["opened_us"]]
        healed = [e for e in self._timeline if e["kind"] == "heal" and before and e["at_us"] > before[-1]["at_us"]]
        if not before or (healed and healed[0]["at_us"] < incident["opened_us"] - 3 * HOUR_US):
            return None
        hours = (incident["opened_us"] - before[-1]["at_us"]) / HOUR_US
        return {"code": before[-1]["code"], "hours": hours}

    def _note(self, kind: str, at_us: int, text: str, number: int | None = None, code: str | None = None) -> None:
        self._timeline.append({"kind": kind, "at_us": at_us, "text": text, "number": number, "code": code})

    # -- what a person may do ----------------------------------------------------------------------------------------

    def inject(self, code: str, intensity: str) -> None:
        """Break something.  Raises ExplainedError where that cannot be done now, or not here."""
        bug = look_up(code)
        why = not_here(bug)
        if why:
            raise ExplainedError(why)
        if intensity not in bug.doses:
            raise ExplainedError(f"{bug.code} has no intensity {intensity!r}; there are {', '.join(bug.doses)}")
        if self.system.fault.now is not None:
            raise ExplainedError(f"{self.system.fault.now.bug.code} is in force: heal it first; one alarm, one cause")
        self._injections += 1
        now_us = max(self.pace.reached_us, self.system.now_us)
        injection = Injection(bug, intensity, self._injections, now_us)
        order = {"code": bug.code, "intensity": intensity, "seed": injection.seed, "onset_us": now_us}
        self._tell("/drill/inject", order)
        self.system.begin(injection, now_us)
        with self._lock:
            self._at_injection = {"impressions": self._seen_impressions}
            self._note("inject", now_us, f"{bug.name}, {intensity}", code=bug.code)

    def heal(self) -> None:
        """Repair what was broken.  Raises ExplainedError where nothing is."""
        injection = self.system.fault.now
        if injection is None:
            raise ExplainedError("nothing is injected: there is nothing to heal")
        now_us = max(self.pace.reached_us, self.system.now_us)
        self._tell("/drill/heal", {})
        self.system.begin(None, now_us)
        with self._lock:
            self._note("heal", now_us, injection.bug.name, code=injection.bug.code)

    def judge(self, number: int, state: str) -> None:
        """A person's word on an incident: acknowledged or false-alarm.  ExplainedError where there is no such incident."""
        self._known(number)
        with self._asking:
            self._watcher.set_state(number, state)
            incidents = self._watcher.incidents()
        with self._lock:
            self._take(incidents, self.system.now_us)
            self._note(state, self.system.now_us, _title(self._known(number)), number)

    def _tell(self, path: str, order: dict[str, Any]) -> None:
        """One order to the endpoint, on a connection of its own.  RuntimeError where it does not follow."""
        link = http.client.HTTPConnection("127.0.0.1", self._vitals.port, timeout=60)
        try:
            link.request("POST", path, json.dumps(order), {"Content-Type": "application/json", HEADER: self.token})
            answer = link.getresponse()
            said = answer.read().decode()
        finally:
            link.close()
        if answer.status != 200:
            raise RuntimeError(f"the endpoint answered {answer.status} to {path}: {said[:300]}")

    # -- what the page shows -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON types."""
        injection = self.system.fault.now
        with self._lock:
            hours = list(self.measures.hours)
            return {
                "now_us": self.pace.now_us,
                "speed": self.pace.speed,
                "started_us": self.started_us,
                "failure": self.failure,
                "injection": None
                if injection is None
                else {"code": injection.bug.code, "name": injection.bug.name, "intensity": injection.intensity,
                      "onset_us": injection.onset_us, "stage": injection.bug.stage},
                "vitals": {**self._vitals.now(), "failed": self._ask.failed},
                "hours": hours,
                "usual_ratio": self.measures.usual_ratio,
                "moved": [{"name": n, "times": round(v, 3)} for n, v in self.measures.shapes.moved(ROWS_A_PICTURE)[:MOVED]],
                "checks": self._checks,
                "timeline": self._timeline,
                "incidents": [_brief(incident) for incident in self._incidents],
            }  # fmt: skip

    def incident(self, number: int) -> dict[str, Any]:
        """One incident whole, with pictures of its evidence.  ExplainedError where there is none of that number."""
        with self._lock:
            incident = self._known(number)
            named = [{**h, "title": _class_title(h["class"])} for h in incident["hypotheses"]]
            return {**incident, "hypotheses": named, "pictures": self.evidence.pictures(incident)}

    def _known(self, number: int) -> dict[str, Any]:
        """The incident of that number.  Raises ExplainedError where there is none."""
        for incident in self._incidents:
            if incident["number"] == number:
                return incident
        raise ExplainedError(f"there is no incident {number}")


def bugs() -> list[dict[str, Any]]:
    """The catalogue for the page."""
    return [
        {
            "code": bug.code,
            "name": bug.name,
            "class": _class_title(bug.bug_class),
            "stage": bug.stage,
            "story": bug.story,
            "doses": dict(bug.doses),
            "dose_means": bug.dose_means,
            "not_here": not_here(bug),
        }
        for bug in BUGS
    ]


def not_here(bug: Bug) -> str | None:
    """Why a bug can't be injected into a running system; None where it can."""
    if bug.stage == "training" or bug.bug_class in _GATE or bug.bug_class not in {c.slug for c in CLASSES}:
        return f"{bug.code} is judged before training, not on live traffic: clickproof inject {bug.code}"
    return None


def _title(incident: dict[str, Any]) -> str:
    slug, subject = incident["class"], incident["subject"]
    return "something is wrong" if slug is None else f"{_class_title(slug)}: {subject}"


def _class_title(slug: str) -> str:
    """A class in words; a slug that is no class stays as it is."""
    return {c.slug: c.title for c in CLASSES}.get(slug, slug)


def _brief(incident: dict[str, Any]) -> dict[str, Any]:
    """An incident without its findings."""
    return {**{k: v for k, v in incident.items() if k not in ("evidence", "hypotheses", "runbook")}, "title": _title(incident)}

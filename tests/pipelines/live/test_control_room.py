"""The control room as a person uses it: `clickproof live` on a trained home, broken and healed from its page in a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from as_a_user import MainJob
from patience import PATIENCE_S, until

from infra import branch
from infra.home import Home
from pipelines.live.token import HEADER

# (code, stage, class, subjects): strong doses of bugs that show in the rows themselves, so that a small market is enough.
BUGS = [
    ("SERVE04", "model", "constant-fallback", {"prediction"}),
    ("DATA03", "events", "duplicated-events", {"impressions", "impression_id"}),
    ("EXP02", "assignment", "sample-ratio-mismatch", {"a", "b"}),
    ("SKEW08", "store", "stale-features", {"user_recent", "user_impressions_1h", "user_impressions_1d"}),
    ("DATA12", "traffic", "schema-change", {"placement"}),
]
BY_KEYBOARD = ("SKEW03", "unit-change")
DAYS = "3"  # of reference, the fewest: what these bugs show needs no more
HOURS = 12  # simulated, for each to be found

OVERLAPS = """() => {
  const parts = document.querySelectorAll('header, #banner, main > section:not([hidden])');
  const boxes = [...parts].map((part) => part.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => meet(a, b))).length;
}"""
CONTRAST = """() => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (selector, what) => {
    const parts = getComputedStyle(document.querySelector(selector))[what].match(/[\\d.]+/g).slice(0, 3);
    const [r, g, b] = parts.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light('.quiet', 'color'), light('main > section', 'backgroundColor')].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""
ON_THE_BUTTON = """(code) => {
  const there = document.activeElement.dataset;
  return there.code === code && there.intensity === 'strong';
}"""


@dataclass
class Running:
    """A `clickproof live`."""

    process: "subprocess.Popen[str]"
    home: Home
    before: str  # fingerprint of the base
    url: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        return self.url.partition("#token=")[2]

    @property
    def root(self) -> str:
        return self.url.partition("#")[0]

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.root + path, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict, token: str) -> int:
        headers = {"Content-Type": "application/json", HEADER: token}
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def room(main_job: MainJob, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The control room on a copy of the main job's home: other tests count its branches."""
    state = tmp_path_factory.mktemp("room")
    home = Home(state / main_job.home.root.name)
    shutil.copytree(main_job.home.root, home.root, ignore=shutil.ignore_patterns("branches"))
    before = branch.fingerprint(home)
    command = [str(Path(sys.executable).with_name("clickproof")), "live", "--size", "tiny", "--home", str(state)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--speed", "3600"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CLICKPROOF_LIVE_DAYS": DAYS, "OMP_NUM_THREADS": "1"},
    )
    running = Running(process, home, before)
    started = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        with process.stderr as stderr:
            for line in stderr:
                running.said.append(line)
                found = re.search(r"control room: (\S+)", line)
                if found:
                    running.url = found[1]
                    started.set()
        started.set()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    assert started.wait(500)
    assert running.url, "".join(running.said)
    yield running
    if process.poll() is None:
        process.terminate()
        process.wait(PATIENCE_S)
    listening.join(PATIENCE_S)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or a word on how to get it."""
    if not Path("/usr/bin/chromium").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("/usr/bin/chromium is not there; CI must install it")
        pytest.skip("/usr/bin/chromium is not there; install it (apt install chromium) to test the page")
    from at_the_page import launch
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(room: Running, browser):
    """One person's window, which remembers what went wrong in it and whom it asked."""
    from at_the_page import LAPTOP, new_page

    opened = new_page(browser, viewport=LAPTOP)
    opened.hosts, opened.errors = set(), []
    opened.on("request", lambda request: opened.hosts.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url)))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("console", lambda line: opened.errors.append(line.text) if line.type in ("error", "warning") else None)
    opened.goto(room.url)
    opened.wait_for_selector("#charts figure")
    return opened


def test_the_page_shows_the_system_with_live_numbers(room: Running, page):
    names = page.locator("#flow b").all_inner_texts()
    assert names == ["Requests", "Features", "Model", "Policy", "Prediction log", "Ingestion", "Labels", "Monitors"]
    first = page.inner_text("#now")
    page.wait_for_function("text => document.getElementById('now').textContent !== text", arg=first)
    state = room.get("api/state")
    hour = state["hours"][-1]
    assert hour["impressions"] > 0
    assert hour["landed"] > 0
    assert state["vitals"]["requests_s"] > 0
    titles = " ".join(page.locator("#charts figcaption b").all_inner_texts())
    for what in ("Traffic", "Click rate", "Calibration", "entropy", "age", "Arms", "moved", "Latency"):
        assert what in titles
    assert "#" not in page.url  # the token does not stay in the address


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["laptop", "phone"])
def test_nothing_is_cut_off_or_hard_to_read(room: Running, browser, size: str, scheme: str):
    from at_the_page import LAPTOP, PHONE, open_page

    window = open_page(browser, room.url, LAPTOP if size == "laptop" else PHONE, scheme)
    assert window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    window.evaluate("window.scrollTo(0, 0)")
    assert window.evaluate(OVERLAPS) == 0
    # Of the quiet text on a card, as WCAG 2.1 counts it: 4.5 is what it asks of small text.
    contrast = window.evaluate(CONTRAST)
    assert contrast >= 4.5
    window.close()


def test_writes_need_the_token(room: Running, browser):
    from at_the_page import new_page

    bug = {"code": "SKEW03", "intensity": "strong"}
    for path, body in (
        ("api/inject", bug),
        ("api/heal", {}),
        ("api/speed", {"speed": 1}),
        ("api/incidents/1/acknowledged", {}),
    ):
        assert room.post(path, body, "wrong") == 403
    assert room.get("api/state")["injection"] is None
    window = new_page(browser)
    window.goto(room.root)
    window.wait_for_selector("#bugs button[data-code]")
    assert window.is_disabled("#bugs button[data-code=SKEW03][data-intensity=strong]")
    assert "token" in window.inner_text("#break-help")
    window.close()


OTHER_SITE = """async ([url, token]) => {
  const headers = { "Content-Type": "application/json", "X-Drill-Token": token };
  const tries = [
    fetch(url + "api/state").then((answer) => answer.text()),
    fetch(url + "api/heal", { method: "POST", headers, body: "{}" }).then((answer) => answer.text()),
    fetch(url + "api/heal", { method: "POST", mode: "no-cors", body: "{}" }).then((answer) => answer.text()),
  ];
  return Promise.all(tries.map((one) => one.catch(() => "")));
}"""


def test_a_page_of_another_site_reads_and_changes_nothing(room: Running, browser):
    """Even if it had the token: the endpoint's own address is another site to a browser."""
    from at_the_page import new_page

    window = new_page(browser)
    window.goto(room.get("api/about")["endpoint"] + "/healthz")
    before = len(room.get("api/state")["timeline"])
    assert window.evaluate(OTHER_SITE, [room.root, room.token]) == ["", "", ""]
    assert len(room.get("api/state")["timeline"]) == before
    window.close()


def test_a_name_that_somebody_makes_lead_here_shows_nothing(room: Running, browser):
    """DNS rebinding: to the browser the page is the attacker's own, so only the server can refuse."""
    from at_the_page import CHROMIUM, new_page

    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    fooled = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
    window = new_page(fooled)
    for url in (room.root, room.get("api/about")["endpoint"] + "/"):
        answer = window.goto(url.replace("127.0.0.1", "evil.example") + "metrics")
        assert answer.status == 421
        assert "CLICKPROOF_ALLOWED_HOSTS" in answer.text()
    fooled.close()


def test_what_cannot_be_done_is_explained(room: Running):
    assert room.post("api/heal", {}, room.token) == 409
    assert room.post("api/inject", {"code": "NOBUG", "intensity": "strong"}, room.token) == 409
    assert room.post("api/inject", {"code": "SKEW03", "intensity": "tremendous"}, room.token) == 409
    assert room.post("api/inject", {"code": "LEAK04", "intensity": "strong"}, room.token) == 409  # judged before training
    assert room.post("api/incidents/999/acknowledged", {}, room.token) == 409


@pytest.mark.parametrize(("code", "stage", "bug_class", "subjects"), BUGS, ids=[f"{bug[0]}-{bug[1]}" for bug in BUGS])
def test_a_bug_is_injected_found_named_and_healed(
    room: Running, page, code: str, stage: str, bug_class: str, subjects: set[str]
):  # fmt: skip
    from at_the_page import heal, inject, wait_for_alarm, wait_for_calm

    wait_for_calm(page)
    known = {incident["number"] for incident in room.get("api/state")["incidents"]}
    inject(page, code)
    injection = room.get("api/state")["injection"]
    assert (injection["code"], injection["stage"]) == (code, stage)
    heading = wait_for_alarm(page)
    new = [incident for incident in room.get("api/state")["incidents"] if incident["number"] not in known]
    whole = room.get(f"api/incidents/{new[0]['number']}")
    assert whole["class"] == bug_class or whole["subject"] in subjects, whole["hypotheses"]
    assert new[0]["title"] in heading
    assert new[0]["delay"]["code"] == code
    assert new[0]["delay"]["hours"] <= HOURS
    assert page.inner_text("#delay").endswith(f"after {code} was injected")
    assert page.locator(".hypotheses .first li").count() > 0
    assert page.locator(".runbook li").count() >= 2
    kinds = page.locator("#events .tag").all_inner_texts()
    assert kinds.index("alarm") < kinds.index("injected")  # newest first
    assert page.locator("#timeline-figure .stretch.amber").count() > 0
    assert page.locator("#timeline-figure .stretch.red").count() > 0
    heal(page)
    wait_for_calm(page)
    assert room.get(f"api/incidents/{new[0]['number']}")["state"] == "resolved"
    assert room.get("api/state")["failure"] is None


def test_by_keyboard_alone(room: Running, page):
    from at_the_page import wait_for_alarm, wait_for_calm

    code, bug_class = BY_KEYBOARD
    wait_for_calm(page)
    page.focus("#search")
    page.keyboard.press("Control+A")
    page.keyboard.type(code)
    reached = False
    for _ in range(8):
        page.keyboard.press("Tab")
        reached = page.evaluate(ON_THE_BUTTON, code)
        if reached:
            break
    assert reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    wait_for_alarm(page)
    assert room.get("api/state")["incidents"][-1]["class"] == bug_class
    page.focus("text=Acknowledge")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alarm .tag[data-kind=acknowledged]")
    page.focus("#heal")
    page.keyboard.press("Enter")
    wait_for_calm(page)


def test_the_report_of_an_incident_is_drawn(room: Running, browser):
    from at_the_page import new_page

    number = room.get("api/state")["incidents"][-1]["number"]
    with urllib.request.urlopen(f"{room.root}api/incidents/{number}/report", timeout=PATIENCE_S) as answer:
        html = answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "against the reference days" in html
    assert "ad_log_price" in html
    window = new_page(browser)
    failed = []
    window.on("pageerror", lambda error: failed.append(str(error)))
    window.goto(f"{room.root}api/incidents/{number}/report")
    window.wait_for_selector("svg")
    assert window.evaluate("() => window.origin") == "null"  # in its sandbox it reaches neither the token nor the page
    assert failed == []
    window.close()


def test_time_stops_and_goes_on(room: Running, page):
    page.click("#pause")
    page.wait_for_function("() => document.getElementById('pace-text').textContent === 'paused'")
    page.wait_for_timeout(500)
    first = room.get("api/state")["now_us"]
    page.wait_for_timeout(500)
    assert room.get("api/state")["now_us"] == first
    page.click("#pause")
    page.wait_for_function("() => document.getElementById('pace-text').textContent !== 'paused'")
    until(lambda: room.get("api/state")["now_us"] > first)


def test_the_page_asked_no_other_host_and_nothing_failed_in_it(room: Running, page):
    assert page.hosts == {room.root.rstrip("/")}
    assert page.errors == []


def children(pid: int) -> set[int]:
    """Processes below a process."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found


def test_ctrl_c_ends_everything_and_leaves_the_base_as_it_was(room: Running):
    below = children(room.process.pid)
    assert len(below) >= 2  # the endpoint, the monitors
    run = Path(room.get("api/about")["branch"])
    assert run.exists()
    os.killpg(room.process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    assert room.process.wait(PATIENCE_S) == 0
    left = [Path(f"/proc/{pid}") for pid in below]
    until(lambda: not any(path.exists() for path in left), lambda: [path for path in left if path.exists()])
    assert not run.exists()
    assert branch.fingerprint(replace(room.home, writable=False)) == room.before
    assert "stopped" in room.said[-1]
    assert "Traceback" not in "".join(room.said)


def test_the_endpoint_does_not_outlive_who_started_it(room: Running):
    """Killed outright, nobody can clean up: the endpoint ends with its standard input."""
    (usual,) = room.home.branches.glob("live-*")
    order = {"root": str(usual), "port": 0, "token": "t", "previous": (usual / "reference" / "previous.txt").read_text()}
    process = subprocess.Popen([sys.executable, "-m", "pipelines.live.endpoint"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps({**order, "settings": {"size": "tiny"}}) + "\n")
    process.stdin.flush()
    time.sleep(1)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)

"""Debian's Prometheus: its checker, and a server of a test's own that scrapes a real endpoint by infra/prometheus."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from patience import PATIENCE_S
from ports import free_port

RULES = Path(__file__).parent.parent / "infra" / "prometheus"
EVERY_S = 1.0  # between scrapes


def program(name: str) -> str:
    """Where a program of Debian's package `prometheus` is; skips the test where it isn't installed, except in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not on PATH; CI must install it")
        pytest.skip(f"{name} is not on PATH; install it (apt install prometheus) to test rules and dashboard")
    return found


class Asked(NamedTuple):
    """What a PromQL expression asks for."""

    selectors: list[str]  # names with label matchers, without ranges and offsets
    labels: set[str]  # that it groups or joins by


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGES = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAMES = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()\s*(\{[^}]*\})?")
_WORDS = {"and", "or", "unless", "bool", "group_left", "group_right", "by", "on"}


def asked(expression: str) -> Asked:
    """Reads an expression of ours: aggregations with the labels before or behind, no subqueries of other clocks."""
    strings: list[str] = _STRING.findall(expression)
    places = iter(range(len(strings)))
    text = _STRING.sub(lambda _: f"\x00{next(places)}\x00", expression)
    labels = {label.strip() for group in _GROUPS.findall(text) for label in group.split(",") if label.strip()}
    text = _RANGES.sub("", _GROUPS.sub(" ", text))
    found = [name + matchers for name, matchers in _NAMES.findall(text) if name not in _WORDS]
    return Asked([re.sub("\x00(\\d+)\x00", lambda at: strings[int(at[1])], one) for one in found], labels)


class RealPrometheus:
    """A server on a free port of the loopback interface; its data are in the folder."""

    def __init__(self, folder: Path, scraped_port: int) -> None:
        server = program("prometheus")
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": f"{EVERY_S:g}s", "evaluation_interval": f"{EVERY_S:g}s"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{scraped_port}"]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    server, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_S)

    def ask(self, path: str, **parameters: str) -> Any:
        """Data of its API; fails where it says that the question is wrong."""
        with urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(parameters)}", timeout=PATIENCE_S) as said:
            answer = json.load(said)
        assert answer["status"] == "success", answer
        return answer["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What an expression evaluates to now: label sets ("metric") with values."""
        found = self.ask("query", query=expression)
        return found["result"] if found["resultType"] == "vector" else [{"metric": {}, "value": found["result"]}]

    def wait_for(self, expression: str) -> None:
        """Until it evaluates to something."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log.read_text()
            try:
                if self.series(expression):
                    return
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.1)
        raise AssertionError(f"{expression} stayed empty; Prometheus said:\n{self._log.read_text()}")

    def wait_for_rules(self) -> None:
        """Until every group of rules was evaluated on what is there now."""
        now = float(self.ask("query", query="time()")["result"][1])
        end = time.monotonic() + PATIENCE_S
        while min(datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in self.ask("rules")["groups"]) < now:
            assert time.monotonic() < end, "some rules are not evaluated"
            time.sleep(0.1)

    def wrong_with(self, expression: str, value: bool) -> Iterator[str]:
        """What of an expression is not exported; and with `value`, whether it evaluates to no number."""
        wanted = asked(expression)
        known: set[str] = set()
        for selector in wanted.selectors:
            if selector.startswith("ALERTS"):  # Prometheus' own, there while something is wrong
                continue
            found = self.series(selector)
            known |= {label for one in found for label in one["metric"]}
            if not found:
                yield f"{selector} is empty"
        if not wanted.selectors:
            yield f"{expression} selects nothing"
        yield from (f"no series of {expression} has the label {label}" for label in sorted(wanted.labels - known))
        if value and all(one["value"][1] == "NaN" for one in self.series(expression)):
            yield f"{expression} has no value"

"""What a person sees while a command runs: one line a step with its minutes, and one JSON line at the end where asked for."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steps:
    """Times the steps of a command and prints a line for each; `seconds` keeps them for the record."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step; prints how long it took."""
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        say(f"{name:<34}{minutes(taken):>12}")

    def summary(self) -> str:
        """A small table: step, minutes, share of the total."""
        total = sum(self.seconds.values()) or 1.0
        rows = [f"  {name:<34}{minutes(s):>12}{s / total:>6.0%}" for name, s in self.seconds.items()]
        return "\n".join(["minutes of each step", *rows, f"  {'total':<34}{minutes(total):>12}"])


def minutes(seconds: float) -> str:
    """Seconds as minutes and seconds, for example 1:03.5 min."""
    return f"{int(seconds // 60)}:{seconds % 60:04.1f} min"


def say(line: str) -> None:
    """Print a line for people, on standard error, so that standard output stays clean for JSON and tables."""
    print(line, file=sys.stderr, flush=True)


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The command's answer: one JSON document as the last line with `--json`, otherwise the text."""
    print(json.dumps(result, sort_keys=True, allow_nan=False) if as_json else text, flush=True)

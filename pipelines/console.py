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
        """Run one step: prints its name, then how long it took."""
        say(f"{name} ...")
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        say(f"{name}: {_minutes(self.seconds[name])}")

    def summary(self) -> str:
        """A small table: step, minutes, share of the total."""
        total = sum(self.seconds.values()) or 1.0
        rows = [f"  {name:<28}{_minutes(s):>10}{s / total:>7.0%}" for name, s in self.seconds.items()]
        return "\n".join(["minutes of each step", *rows, f"  {'total':<28}{_minutes(total):>10}"])


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f} min"


def say(line: str) -> None:
    """Print a line for people, on standard error, so that standard output stays clean for JSON and tables."""
    print(line, file=sys.stderr, flush=True)


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The command's answer: one JSON document as the last line with `--json`, otherwise the text."""
    print(json.dumps(result, sort_keys=True, allow_nan=False) if as_json else text, flush=True)

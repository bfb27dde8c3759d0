"""Compiled loops: what they give, and that they need no folder to keep what was compiled."""

from typing import Any

from infra.compiled import compiled

SOURCE = "def total(values):\n    found = 0.0\n    for value in values:\n        found += value / 0.0\n    return found\n"


def test_a_loop_without_a_place_to_be_kept_is_compiled_all_the_same() -> None:
    scope: dict[str, Any] = {}
    exec(compile(SOURCE, "<nowhere>", "exec"), scope)
    assert compiled(scope["total"])((1.0, 2.0)) == float("inf")

"""Markdown that several pages write alike."""

from collections.abc import Mapping, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def interval(found: Mapping[str, float | None], digits: int = 3, sign: bool = False) -> str:
    """A value with its interval, for example 0.928 (0.923 to 0.933); with `sign`, +0.002 (-0.001 to +0.005)."""
    if found["value"] is None:
        return "not known"
    form = f"{'+' if sign else ''}.{digits}f"
    bounds = "" if found["low"] is None else f" ({found['low']:{form}} to {found['high']:{form}})"
    return f"{found['value']:{form}}{bounds}"

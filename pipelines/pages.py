"""Keeps the generated parts of README.md and docs/*.md equal to what they are generated from.  Called by `clickproof docs`.

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; NAME is a block of `pipelines.page_blocks`.
"""

import re
from pathlib import Path

from infra.errors import ExplainedError
from pipelines import figures
from pipelines.page_blocks import BLOCKS

_PART = re.compile(r"(<!-- begin ([\w.-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def render(text: str) -> str:
    """The page with every generated part written anew; ExplainedError for a part that no block makes."""

    def fill(part: re.Match[str]) -> str:
        name = part.group(2)
        if name not in BLOCKS:
            raise ExplainedError(f"no block makes the generated part {name!r}; pipelines/page_blocks.py has {sorted(BLOCKS)}")
        return f"{part.group(1)}{BLOCKS[name]().strip()}\n{part.group(3)}"

    return _PART.sub(fill, text)


def render_all(check: bool) -> int:
    """Rewrite every page, or with `check` only compare; 1 when a page differs from what it would be."""
    stale = 0
    for path in [figures.ROOT / "README.md", *sorted((figures.ROOT / "docs").glob("*.md"))]:
        written = path.read_text()
        fresh = render(written)
        if fresh != written:
            stale += 1
            print(f"{_relative(path)}: {'differs from its sources; run: make docs' if check else 'written'}")
            if not check:
                path.write_text(fresh)
    for name in figures.names():
        changed = figures.load(name).changed_rooms()
        if changed and check:
            print(f"docs/figures/{name}.json: measured before {', '.join(changed)} changed")
    return 1 if check and stale else 0


def _relative(path: Path) -> str:
    return path.relative_to(figures.ROOT).as_posix()

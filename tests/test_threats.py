"""The threat page names tests that are there, and something that shows each row."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threats.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", PAGE)
    assert len(named) > 15
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tests" / "serving" / name).exists(), name


def test_every_row_says_what_shows_it() -> None:
    rows = [line for line in PAGE.splitlines() if line.count(" | ") == 3 and not line.startswith("| way in")]
    assert len(rows) > 15
    for row in rows:
        assert re.search(r"`tests/|\]\(|`make |`python ", row.split(" | ")[3]), row

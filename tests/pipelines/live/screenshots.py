"""Pictures of the control room for docs/control-room.md: calm, injected, alarm, healed; laptop and phone, light and dark.

    clickproof live                                                    # in one terminal; it prints an address with a token
    python tests/pipelines/live/screenshots.py ADDRESS docs/control-room

`--all` takes all sixteen instead of those that the page shows; `--code` breaks something else.
"""

import argparse
import io
from pathlib import Path

from at_the_page import LAPTOP, PHONE, heal, inject, launch, open_page, wait_for_alarm, wait_for_calm
from PIL import Image
from playwright.sync_api import Page, sync_playwright

COLOURS = 128  # a palette keeps each picture below 100 kB
HOURS = 6  # of figures behind the first picture
SHOWN = {
    "calm-laptop-light", "calm-phone-dark", "injected-laptop-light", "alarm-laptop-dark", "alarm-phone-light",
    "healed-laptop-light",
}  # fmt: skip


def take(pages: dict[str, Page], folder: Path, state: str, wanted: set[str] | None) -> None:
    """One picture a page, from its top; time stands still meanwhile, so that they agree."""
    first = next(iter(pages.values()))
    first.click("#pause")
    for name, page in pages.items():
        if wanted is None or f"{state}-{name}" in wanted:
            page.evaluate("window.scrollTo(0, 0)")
            page.mouse.move(0, 0)
            page.wait_for_function("() => document.getElementById('pace-text').textContent === 'paused'")
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(folder / f"{state}-{name}.png", optimize=True)
    first.click("#pause")


def main(url: str, folder: Path, code: str, wanted: set[str] | None) -> None:
    """Drive a control room through one bug."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        pages = {
            f"{size}-{scheme}": open_page(browser, url, viewport, scheme)
            for size, viewport in (("laptop", LAPTOP), ("phone", PHONE))
            for scheme in ("light", "dark")
        }
        first = next(iter(pages.values()))
        enough = f"fetch('api/state').then((answer) => answer.json()).then((state) => state.hours.length >= {HOURS})"
        while not first.evaluate(enough):
            first.wait_for_timeout(1000)
        wait_for_calm(first, 900)
        take(pages, folder, "calm", wanted)
        inject(first, code)
        take(pages, folder, "injected", wanted)
        wait_for_alarm(first, 600)
        take(pages, folder, "alarm", wanted)
        heal(first)
        wait_for_calm(first, 900)
        take(pages, folder, "healed", wanted)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="as the terminal printed it, with its token")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--code", default="SKEW03", help="the bug to inject")
    parser.add_argument("--all", action="store_true", help="all states at all sizes in both schemes")
    given = parser.parse_args()
    main(given.address, given.folder, given.code, None if given.all else SHOWN)

"""What a person does at the control room's page, as Playwright steps.  Used by the browser test and by `screenshots.py`."""

from typing import Any

from playwright.sync_api import Browser, Page, Playwright

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 300_000  # for whatever the page should come to show, on a busy machine
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def launch(playwright: Playwright) -> Browser:
    """Debian's chromium, headless."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI runs as root


def new_page(browser: Browser, **options: Any) -> Page:
    """An empty page that shares nothing with others."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE_MS)
    return page


def open_page(browser: Browser, url: str, viewport: Any = LAPTOP, scheme: Any = "light") -> Page:
    """The page at a window size and colour scheme, once its numbers are there."""
    page = new_page(browser, viewport=viewport, color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector("#charts figure")
    return page


def inject(page: Page, code: str, intensity: str = "strong") -> None:
    """Find a bug in the list and press its button."""
    page.fill("#search", code)
    page.click(f"#bugs button[data-code={code}][data-intensity={intensity}]")
    page.wait_for_selector("#banner[data-state=broken], #banner[data-state=alarm]")


def wait_for_alarm(page: Page, timeout_s: float = PATIENCE_MS / 1000) -> str:
    """The incident's heading, when it is there with its evidence."""
    page.wait_for_selector("#alarm:not([hidden]) #evidence figure", timeout=1000 * timeout_s)
    return page.inner_text("#incident h3")


def heal(page: Page) -> None:
    """Press the button in the banner."""
    page.click("#heal")
    page.wait_for_selector("#heal", state="hidden")


def wait_for_calm(page: Page, timeout_s: float = PATIENCE_MS / 1000) -> None:
    """No incident is open any more."""
    page.wait_for_selector("#banner[data-state=calm]", timeout=1000 * timeout_s)
    page.wait_for_selector("#alarm", state="hidden")

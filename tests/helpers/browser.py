"""Debian's Chromium, driven by Playwright."""

import contextlib
import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --autoplay-policy=no-user-gesture-required"
).split()


@dataclass
class Opened:
    """A page in the browser, with what went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def serious(self):
        """What axe-core finds, of impact serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]

    def width(self):
        """Pixels that the page needs."""
        return self.page.evaluate("document.documentElement.scrollWidth")


@contextlib.contextmanager
def launched(*flags):
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("Debian's chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def open_address(browser, address, width=1280, dark=False):
    """Open a page at a width, in light or dark: the page, and its context."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    one = Opened(context.new_page())
    one.page.on("console", lambda message: one.problems.append(f"{message.type}: {message.text}"))
    one.page.on("pageerror", lambda error: one.problems.append(str(error)))
    one.page.on("request", lambda request: one.requests.append(request.url))
    one.page.on("websocket", lambda socket: one.requests.append(socket.url))
    one.page.goto(address)
    return one, context

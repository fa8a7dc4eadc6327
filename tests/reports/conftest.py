"""Debian's Chromium, driven by Playwright: pages are opened as a reader opens them, and may ask for nothing."""

import shutil
from dataclasses import dataclass, field

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --autoplay-policy=no-user-gesture-required"
).split()


@dataclass
class Opened:
    """A page in the browser, with what went wrong in it."""

    page: object
    problems: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    def serious(self):
        """What axe-core finds, of impact serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]

    def width(self):
        """Pixels that the page needs."""
        return self.page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("Debian's chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open an HTML file at a width, in light or dark; at the end nothing may have gone wrong or been asked for."""
    opened = []

    def open_file(path, width=1280, dark=False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        one = Opened(context.new_page())
        one.page.on("console", lambda message: one.problems.append(f"{message.type}: {message.text}"))
        one.page.on("pageerror", lambda error: one.problems.append(str(error)))
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.goto(path.absolute().as_uri())
        opened.append((one, path, context))
        return one

    yield open_file
    for one, path, context in opened:
        assert one.problems == []
        assert [url for url in one.requests if not url.startswith("data:")] == [path.absolute().as_uri()]
        context.close()

"""Pages of reports in a browser, opened as a reader opens them; they may ask for nothing."""

import pytest
from helpers.browser import launched, open_address


@pytest.fixture(scope="module")  # Playwright runs once in a process: it ends before the tests of other files
def chromium():
    """A headless browser."""
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(chromium):
    """Open an HTML file at a width, in light or dark; at the end nothing may have gone wrong or been asked for."""
    opened = []

    def open_file(path, width=1280, dark=False):
        one, context = open_address(chromium, path.absolute().as_uri(), width, dark)
        opened.append((one, path, context))
        return one

    yield open_file
    for one, path, context in opened:
        assert one.problems == []
        assert [url for url in one.requests if not url.startswith("data:")] == [path.absolute().as_uri()]
        context.close()

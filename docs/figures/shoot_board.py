"""Make the screenshots of LLaMA Board: `python docs/figures/shoot_board.py [FOLDER]`; needs Debian's Chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from helpers.browser import launched  # noqa: E402
from helpers.llama_board import augment_demo, running_board  # noqa: E402

from simulsa_plugin.demo.corpus import write_demo_corpus  # noqa: E402


def main() -> None:
    """Fill in the fields of the tab Train, then augment 400 rows in the tab SimulSA."""
    folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else HERE
    with tempfile.TemporaryDirectory() as temporary, launched() as browser:
        write_demo_corpus(Path(temporary) / "data", rows=400)
        with running_board(temporary) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            heading = page.get_by_role("button", name="SimulSA: simultaneous decoding")
            heading.click(timeout=60_000)
            page.get_by_label("Test set").fill("demo_test")
            page.get_by_label("Chunks in ms").fill("500,1000")
            heading.locator("..").screenshot(path=folder / "board_train.png")
            augment_demo(page)
            page.wait_for_timeout(8000)  # notices of LLaMA Board disappear
            page.screenshot(path=folder / "board_tab.png", full_page=True)


if __name__ == "__main__":
    main()

"""Make the screenshots of the reports; needs Debian's Chromium.

simulsa-augment --out data/
simulsa-eval simulsa_rollbacks=0,3 simulsa_chunks=500,1000,2000 --out results/shown
simulsa-eval simulsa_longform=window simulsa_rollbacks=0,3 simulsa_chunks=500 --out results/talks
python docs/figures/shoot_reports.py data/demo_simulsa results/shown results/talks [FOLDER]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from helpers.browser import launched, open_address  # noqa: E402

REVISING, CONFIDENT = r"rollback .* b=3", r"confidence .* b=0"  # the two systems: the first cell of each kind


def main() -> None:
    """Open the reports of three folders, and take the part of each that its picture shows."""
    augmented, evaluated, talks = (Path(folder).resolve() / "report.html" for folder in sys.argv[1:4])
    folder = Path(sys.argv[4]) if len(sys.argv) > 4 else HERE
    with launched() as browser:
        shown: Any = {
            "report_curves.png": (evaluated, 1100, top_of_page),
            "report_instances.png": (evaluated, 1100, replay),
            "report_samples.png": (augmented, 1280, samples),
            "report_talk.png": (talks, 1100, talk),
        }
        for name, (report, width, show) in shown.items():
            opened, context = open_address(browser, report.as_uri(), width, False)
            place = show(opened.page)
            opened.page.screenshot(path=folder / name, clip=place, full_page=True)
            context.close()


def top_of_page(page: Any) -> dict[str, float]:
    """Return where the first values and the main chart are."""
    return part(page, "header", "#curves")


def replay(page: Any) -> dict[str, float]:
    """Return where two systems translate an utterance, at a moment when one takes text back."""
    choose_systems(page)
    page.get_by_label("Show").first.select_option(label="most erased")
    page.locator("#instances tbody button").first.click()
    seek(page, first_revision(page))
    return part(page, "#instances article h3", "#instances article")


def talk(page: Any) -> dict[str, float]:
    """Return where a talk is replayed, from its time line to the first reference segments."""
    choose_systems(page)
    seek(page, first_revision(page))
    return part(page, "#instances article h3", "#instances article")


def samples(page: Any) -> dict[str, float]:
    """Return where the controls and the first samples are."""
    whole, bottom = part(page, ".sticky", ".samples"), part(page, "article.sample", "article.sample >> nth=3")
    return whole | {"height": bottom["y"] + bottom["height"] - whole["y"] + 8}


def choose_systems(page: Any) -> None:
    """Choose the two cells that are shown side by side."""
    for label, pattern in (("System A", CONFIDENT), ("System B", REVISING)):
        choices = page.get_by_label(label).locator("option").all_inner_texts()
        page.get_by_label(label).select_option(label=next(one for one in choices if re.fullmatch(f"{pattern}.*", one)))


def first_revision(page: Any) -> float:
    """Return a moment (s) just after text was taken back, as the time line has it."""
    return float(page.locator(".timeline .revision title").first.text_content().partition(" ms")[0]) / 1000 + 0.05


def seek(page: Any, seconds: float) -> None:
    """Move the replay to a time."""
    page.get_by_label("Time", exact=True).evaluate(
        "(slider, now) => { slider.value = now; slider.dispatchEvent(new Event('input')); }", seconds
    )


def part(page: Any, first: str, last: str) -> dict[str, float]:
    """Return the rectangle of the page, with a margin, from the top of an element to the bottom of another one."""
    top, bottom = (
        page.locator(where).first.evaluate("(one) => { const { top, bottom } = one.getBoundingClientRect(); "
                                           "return { top: top + scrollY, bottom: bottom + scrollY }; }")
        for where in (first, last)
    )  # fmt: skip
    width = page.viewport_size["width"]
    return {"x": 0, "y": max(0, top["top"] - 12), "width": width, "height": bottom["bottom"] - top["top"] + 24}


if __name__ == "__main__":
    main()

"""The report of an evaluation in Chromium: curves, tables, and instances that are replayed."""

import json

import pytest
from helpers.fakes import ClockModel, noise_samples
from helpers.files import read_json_lines

from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report_page import NamedResult, result_page
from simulsa_plugin.evaluation.run import run_evaluation

EVIL = "<img src=x onerror=alert(1)> guten Tag liebe Welt"
SETTINGS = EvaluationSettings(chunks=(300, 600), rollbacks=(0, 3))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Twelve utterances with texts that look like HTML."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = noise_samples(folder / "audio", [1.2 + 0.3 * number for number in range(12)], text=EVIL)
    run_evaluation(ClockModel(text=EVIL, ms_per_byte=40.0, regret=True), "toy", rows, SETTINGS, folder / "out")
    return folder / "out"


def scores(folder):
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_the_page_holds_what_it_shows_and_is_small(result):
    page = (result / "report.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    assert "<img src" not in page
    assert "data:audio/mpeg;base64," in page


def test_the_page_is_the_same_when_it_is_written_again(result):
    page = result_page([NamedResult("", result, scores(result))], "Simultaneous translation of toy")
    assert page == (result / "report.html").read_text(encoding="utf-8")


def test_a_page_without_its_audio_says_so(result, tmp_path):
    log = result / "offline" / "instances.log"
    before = log.read_bytes()
    (result / "offline" / "instances.log").write_bytes(before.replace(b"/audio/", b"/gone_/"))
    for cell in result.glob("rollback*"):
        kept = (cell / "instances.log").read_bytes()
        (cell / "instances.log").write_bytes(kept.replace(b"/audio/", b"/gone_/"))
    try:
        page = result_page([NamedResult("", result, scores(result))], "toy")
    finally:
        log.write_bytes(before)
        for cell in result.glob("rollback*"):
            path = cell / "instances.log"
            path.write_bytes(path.read_bytes().replace(b"/gone_/", b"/audio/"))
    assert "data:audio/mpeg" not in page
    assert "The audio cannot be read where the log says it is." in page


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False), (2560, False)])
def test_it_opens_at_every_width(open_page, result, width, dark):
    opened = open_page(result / "report.html", width, dark)
    assert opened.width() == width
    assert opened.serious() == []
    assert opened.page.locator("#curves canvas").count() == 1


@pytest.mark.browser
def test_axes_are_chosen_and_cells_are_sorted(open_page, result):
    page = open_page(result / "report.html").page
    page.select_option("#axes select >> nth=0", "chrF")
    page.select_option("#axes select >> nth=1", "YAAL")
    assert "chrF over YAAL" in page.locator("#curves canvas").get_attribute("aria-label")
    table = page.locator("table.sortable").first
    table.get_by_role("button", name="BLEU", exact=True).click()
    shown = [float(text.split("\n")[0]) for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)


@pytest.mark.browser
def test_instances_are_searched_and_replayed(open_page, result):
    page = open_page(result / "report.html").page
    rows = page.locator("#instances tbody tr")
    total = rows.count()
    page.get_by_role("searchbox").fill("toy-00000003")
    assert rows.count() <= 1 < total
    page.get_by_role("searchbox").fill("")
    page.get_by_label("System A").select_option(label="rollback k=300 b=3")
    identifier = page.locator("article h3").first.inner_text().split()[0]
    steps = [row for row in read_json_lines(result / "rollback_k300_b3" / "steps.jsonl") if row["id"] == identifier]
    for step in steps[:-1]:
        page.get_by_label("Time", exact=True).evaluate(
            "(slider, now) => { slider.value = now; slider.dispatchEvent(new Event('input')); }",
            step["audio_ms"] / 1000 + 0.02,
        )
        screen = page.locator(".screen").first
        assert screen.locator(".committed").inner_text().strip() == step["committed"].strip()
        whole = screen.locator(".committed").text_content() + screen.locator(".open").text_content()
        assert whole.split() == step["text"].split()
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Replay").wait_for(timeout=10_000)  # it has come to the end
    assert page.locator(".screen").first.inner_text().split() == steps[-1]["text"].split()
    assert page.locator("img").count() == 0

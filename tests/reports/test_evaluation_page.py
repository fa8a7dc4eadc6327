"""The report of an evaluation in Chromium: curves, tables, and instances that are replayed."""

import dataclasses
import json
import re

import pytest
from helpers.fakes import ClockModel, noise_samples
from helpers.files import read_json_lines
from helpers.reading_model import ReadingModel
from helpers.talks import VOICE_ACTIVITY, energy_detector, write_talks

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.named_result import NamedResult
from simulsa_plugin.evaluation.report_page import result_page
from simulsa_plugin.evaluation.run import run_evaluation

__all__ = ["energy_detector"]
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
    assert opened.page.locator("#curves .chart canvas").count() == 1


@pytest.mark.browser
def test_axes_are_chosen_and_cells_are_sorted(open_page, result):
    page = open_page(result / "report.html").page
    page.select_option("#axes select >> nth=0", "chrF")
    page.select_option("#axes select >> nth=1", "YAAL")
    assert "chrF over YAAL" in page.locator("#curves .chart canvas").get_attribute("aria-label")
    table = page.locator("table.sortable").first
    table.get_by_role("button", name="BLEU", exact=True).click()
    shown = [float(text.split("\n")[0]) for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)


@pytest.mark.browser
def test_by_keyboard_a_line_is_hidden_and_shown_in_the_legend(open_page, result):
    page = open_page(result / "report.html").page
    button = page.locator("#curves .legend button").first
    lines = "[...Chart.getChart(document.querySelector('#curves .chart canvas')).getSortedVisibleDatasetMetas()].length"
    before = page.evaluate(lines)
    for shown in (False, True):
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == str(shown).lower()
        assert page.evaluate(lines) == before - (not shown)


@pytest.mark.browser
def test_no_axis_of_bleu_goes_beyond_100(open_page, result, tmp_path):
    content = scores(result)
    for number, cell in enumerate(content["cells"]):
        cell["BLEU"] = 100.00000000000004 if number else 0.0  # as sacrebleu says of a perfect translation
    path = tmp_path / "perfect.html"
    path.write_text(result_page([NamedResult("", result, content)], "toy"), encoding="utf-8")
    page = open_page(path).page
    assert page.evaluate("Chart.getChart(document.querySelector('#curves .chart canvas')).scales.y.max") == 100


@pytest.mark.browser
@pytest.mark.parametrize("chunks", [0, 1])
def test_of_one_cell_no_chart_is_empty(open_page, result, tmp_path, chunks):
    content = scores(result)
    key = {"offline": 0, "rollback": 1}
    content["cells"] = sorted(content["cells"], key=lambda cell: key[cell["policy"]])[: 1 + chunks]
    path = tmp_path / "few.html"
    path.write_text(result_page([NamedResult("", result, content)], "toy"), encoding="utf-8")
    page = open_page(path).page
    assert page.locator(".overview section:visible h2").all_inner_texts()[:1] == ["Quality over latency"][:chunks]
    assert "Quality over chunk" not in page.locator(".overview").inner_text()
    for section in page.locator(".overview section:visible").all():
        assert section.locator(".chart canvas").count() == 1


@pytest.mark.browser
def test_no_word_of_the_time_line_is_cut(open_page, result):
    page = open_page(result / "report.html").page
    page.get_by_label("System A").select_option(label="offline")  # all words at the end
    ends = "(all) => all.map((one) => one.getBBox().x + one.getBBox().width)"
    assert max(page.locator(".timeline .word").evaluate_all(ends)) <= float(
        page.locator(".timeline svg").get_attribute("width")
    )


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


@pytest.mark.browser
@pytest.mark.parametrize("several", [False, True])
def test_tuned_points_are_ringed_with_their_budgets(open_page, tmp_path, several):
    rows = noise_samples(tmp_path / "audio", [1.2, 1.5, 1.8], text=EVIL)
    tuned = {"LAAL@700": "rollback_k300_b0", "LAAL@900.5": "rollback_k300_b0", "LAAL@1000": "rollback_k600_b3"}
    settings = dataclasses.replace(SETTINGS, tuned=tuned)
    cells = run_evaluation(ClockModel(text=EVIL, ms_per_byte=40.0), "toy", rows, settings, tmp_path / "out")
    path = tmp_path / "out" / "report.html"
    if several:
        path = tmp_path / "both.html"
        run_evaluation(ClockModel(text="x"), "toy", rows, SETTINGS, tmp_path / "other")
        few = ["--samples", "40", "--trials", "40"]
        assert main(["report", str(tmp_path / "out"), str(tmp_path / "other"), "--out", str(path), *few]) == 0
    page = open_page(path).page
    drawn = page.evaluate(
        "Chart.getChart(document.querySelector('#curves canvas')).data.datasets.map("
        "({ label, data, pointRadius }) => [label, pointRadius, ...data.map(({ x, y }) => [x, y])])"
    )
    by_folder = {row["folder"]: [row["LAAL"], row["BLEU"]] for row in cells}
    names = ["out", "out"] if several else ["rollback k=300 b=0", "rollback k=600 b=3"]
    assert [one for one in drawn if "tuned" in one[0]] == [
        [f"{names[0]}: tuned on dev for LAAL ≤ 700 ms, LAAL ≤ 900.5 ms", 10, by_folder["rollback_k300_b0"]],
        [f"{names[1]}: tuned on dev for LAAL ≤ 1000 ms", 10, by_folder["rollback_k600_b3"]],
    ]
    table = page.get_by_role("table", name="All cells")
    column = table.locator("thead th").all_inner_texts().index("tuned on dev for")
    shown = table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
    assert sorted(filter(None, shown)) == ["LAAL ≤ 1000 ms", "LAAL ≤ 700 ms, LAAL ≤ 900.5 ms"]


@pytest.fixture
def talk_report(tmp_path, energy_detector):
    """Three talks of numbered words, a segment for every five of them."""
    rows = write_talks(tmp_path / "talks")
    keys = {"chunks": (320, 640), "rollbacks": (0, 3), "longform": "window"} | VOICE_ACTIVITY
    run_evaluation(ReadingModel(regret=True), "talks", rows, EvaluationSettings(**keys), tmp_path / "out")
    return rows, tmp_path / "out" / "report.html"


def titles_of_speech(out, row):
    return [
        f"speech segment {one['segment']}: {one['start_seconds']:.2f}–{one['end_seconds']:.2f} s, its end known at "
        f"{one['closed_seconds']:.2f} s"
        for one in read_json_lines(out / "speech.jsonl")
        if one["audio"] == row.audio
    ]


def seek(page, seconds):
    page.get_by_label("Time", exact=True).evaluate(
        "(slider, now) => { slider.value = now; slider.dispatchEvent(new Event('input')); }", seconds
    )


@pytest.mark.browser
def test_a_talk_has_its_segments_and_a_time_line_that_follows(open_page, talk_report):
    rows, path = talk_report
    opened = open_page(path, 390)
    page = opened.page
    assert (opened.width(), opened.serious()) == (390, [])
    page.get_by_label("System A").select_option(label="rollback k=320 b=3")
    shown = page.locator(".segments tbody tr")
    assert shown.count() == len(rows[0].segments)
    assert shown.locator("ins, del").count() == 0  # every word is right
    assert page.locator(".timeline .speech").count() == len(rows[0].segments)
    assert page.locator(".timeline .heard title").all_text_contents() == titles_of_speech(path.parent, rows[0])
    assert "thinner the speech segments" in page.locator("article").inner_text()
    last = rows[0].segments[-1]
    shown.last.get_by_role("button").click()
    assert page.locator("output").inner_text().startswith(f"{last.offset_seconds:.2f} s")
    assert last.reference.split()[0] not in page.locator(".screen").first.inner_text().split()
    assert page.locator(".timeline").evaluate("(box) => box.scrollLeft") > 0
    seek(page, 3600)
    assert page.locator(".screen").first.inner_text().split() == rows[0].reference.split()


@pytest.mark.browser
def test_two_results_that_heard_other_speech_show_both(open_page, talk_report, tmp_path):
    rows, path = talk_report
    keys = {"chunks": (320,), "rollbacks": (0,), "longform": "window"} | VOICE_ACTIVITY
    for name, more in (("alike", {}), ("padded", {"vad_pad_ms": 100})):
        run_evaluation(ReadingModel(), "talks", rows, EvaluationSettings(**keys | more), tmp_path / name)
    few = ["--samples", "40", "--trials", "40", "--out", str(tmp_path / "both.html")]
    outs = [path.parent, tmp_path / "alike", tmp_path / "padded"]
    first, alike, padded = (titles_of_speech(out, rows[0]) for out in outs)
    assert first == alike != padded
    for name, expected in (
        ("alike", first),
        ("padded", [*(f"out: {title}" for title in first), *(f"padded: {title}" for title in padded)]),
    ):
        assert main(["report", str(path.parent), str(tmp_path / name), *few]) == 0
        assert open_page(tmp_path / "both.html").page.locator(".timeline .heard title").all_text_contents() == expected


@pytest.mark.browser
def test_what_was_taken_back_is_struck_through_and_marked_on_the_time_line(open_page, talk_report):
    _, path = talk_report
    page = open_page(path).page
    page.get_by_label("System A").select_option(label="rollback k=320 b=3")
    page.get_by_label("System B").select_option(label="none")
    # The model guesses «???» wherever a word has only begun.
    marks = page.locator(".timeline .revision title").evaluate_all("(titles) => titles.map((one) => one.textContent)")
    assert marks
    assert {mark.partition("taken back: ")[2] for mark in marks} == {"???"}
    seek(page, float(marks[0].partition(" ms")[0]) / 1000 + 0.02)
    assert page.locator(".screen del").inner_text() == "???"


@pytest.mark.browser
def test_by_keyboard_an_instance_is_chosen_and_replayed_without_audio(open_page, result, tmp_path):
    text = (result / "report.html").read_text(encoding="utf-8")
    path = tmp_path / "silent.html"
    path.write_text(re.sub(r'"audio": "data:[^"]*"', '"audio": null', text), encoding="utf-8")
    page = open_page(path).page
    page.locator("#instances").get_by_role("button", name="seconds").click()
    button = page.locator("#instances tbody button").first  # the longest: 3 seconds or more
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("article h3").first.inner_text().startswith(button.inner_text())
    assert page.locator("#instances tbody tr[aria-selected=true]").count() == 1
    page.get_by_role("button", name="Replay").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.wait_for_timeout(100)
    page.keyboard.press("Space")
    stopped = page.locator("output").inner_text()
    page.wait_for_timeout(2500)
    assert page.locator("output").inner_text() == stopped
    page.keyboard.press("Space")
    page.wait_for_timeout(50)
    assert float(page.locator("output").inner_text().split()[0]) < float(stopped.split()[0]) + 2.0  # it did not jump
    assert float(stopped.split()[3]) > float(stopped.split()[0]) + 2.5
    page.get_by_role("button", name="Replay").wait_for(timeout=10_000)
    page.get_by_label("Time", exact=True).focus()
    page.keyboard.press("Home")
    assert page.locator("output").inner_text().startswith("0.00 s")
    assert page.locator(".screen").first.inner_text() == ""


@pytest.mark.browser
def test_the_order_of_the_instances_lasts_while_one_is_looked_at(open_page, result):
    page = open_page(result / "report.html").page
    table = page.locator("#instances table.sortable").first
    table.get_by_role("button", name="seconds").click()

    def seconds():
        return [float(text) for text in table.locator("tbody tr td:nth-child(5)").all_inner_texts()]

    assert seconds() == sorted(seconds(), reverse=True)
    table.locator("tbody button").last.click()
    page.get_by_label("System B").select_option(label="none")
    page.get_by_label("System A").select_option(index=0)
    assert seconds() == sorted(seconds(), reverse=True)
    assert len(set(seconds())) > 1


@pytest.mark.browser
def test_two_results_are_replayed_side_by_side_on_the_page_of_a_comparison(open_page, result, tmp_path):
    other = "<b>ganz anders</b>"
    rows = noise_samples(result.parent / "audio", [1.2 + 0.3 * number for number in range(12)], text=EVIL)
    run_evaluation(ClockModel(text=other, ms_per_byte=40.0), "toy", rows, SETTINGS, tmp_path / "other")
    page_file = tmp_path / "report.html"
    few = ["--samples", "40", "--trials", "40"]
    assert main(["report", str(result), str(tmp_path / "other"), "--out", str(page_file), *few]) == 0
    opened = open_page(page_file)
    page = opened.page
    systems = page.locator(".system h3")  # the same cell of both results
    assert systems.all_inner_texts() == ["out: rollback k=300 b=0", "other: rollback k=300 b=0"]
    page.get_by_label("System A").select_option(label="out: rollback k=600 b=0")
    page.get_by_label("System B").select_option(label="other: rollback k=600 b=0")
    first, second = page.locator(".screen").all_inner_texts()
    assert first.startswith("<img src=x") and second.startswith("<b>ganz")
    assert page.locator(".diff").nth(1).locator("ins").count() == len(second.split())
    assert page.locator("#instances img, #instances article b:has-text('ganz')").count() == 0
    assert opened.serious() == []
    assert page_file.stat().st_size < 5_000_000


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("Donau" + "dampfschifffahrts" * 9 + "kapitän", "ltr"),
        ("\u0630\u0647\u0628 \u0627\u0644\u0631\u062c\u0644", "rtl"),
    ],
)
def test_no_word_widens_the_page_and_each_script_has_its_direction(open_page, tmp_path, text, direction):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.3], text=text)
    settings = EvaluationSettings(chunks=(500,), rollbacks=(0,))
    run_evaluation(ClockModel(text=text, ms_per_byte=5.0), "toy", rows, settings, tmp_path / "out")
    opened = open_page(tmp_path / "out" / "report.html", 390)
    assert opened.width() == 390
    for part in (".screen", ".diff bdi", "#instances tbody td:last-child"):
        direct = "(one) => getComputedStyle(one).direction"
        assert opened.page.locator(part).first.evaluate(direct) == direction


@pytest.mark.browser
def test_characters_are_compared_one_by_one(open_page, tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.3], text="\u4f60\u597d\u5417\u554a")
    settings = EvaluationSettings(target_language="zh", chunks=(500,), rollbacks=(0,))
    run_evaluation(
        ClockModel(text="\u4f60\u5f88\u5417\u554a", ms_per_byte=50.0), "toy", rows, settings, tmp_path / "out"
    )
    page = open_page(tmp_path / "out" / "report.html").page
    page.get_by_label("System B").select_option(label="offline")
    found = page.locator(".diff").last
    assert (found.locator("ins").inner_text(), found.locator("del").inner_text()) == ("\u5f88", "\u597d")

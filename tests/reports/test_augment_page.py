"""report.html of simulsa-augment in a browser: it decides as Python does, filters, plays, and is for every screen."""

import json
import math
import random

import pytest
from helpers.files import read_json_lines

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.label_quality import compare_partials
from simulsa_plugin.augmentation.method.acceptance import RULES, decide
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.demo.truth import find_truth

pytestmark = pytest.mark.browser

SAMPLES = 24
# Pieces of texts in which a token may end inside a character, inside a word, between Chinese words or after a space.
PIECES = [
    "Der",
    " Mann",
    " ha",
    "t",
    " 我",
    "用",
    "GPT",
    " fu",
    "\N{COMBINING DIAERESIS}r",
    "</b>",
    " ",
    "é",
    "สวัส",
    "ดี",
]
V = 5000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a run over the embedded corpus, with every score."""
    offline, out = tmp_path_factory.mktemp("offline"), tmp_path_factory.mktemp("out")
    write_demo_corpus(offline, rows=60, test_rows=0, processes=1)
    keys = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=demo", f"dataset_dir={offline}"]
    more = [f"simulsa_samples={SAMPLES}", "simulsa_extra_scores=full,lookback"]
    assert command.main([*keys, *more, "--out", str(out)]) == 0
    return out / "demo_simulsa"


def drawn_row(rng, number):
    """A row of scores.jsonl over pieces; some tokens end inside a character, some probabilities are on a bound."""
    pieces = rng.choices(PIECES, k=rng.randint(1, 14))
    ends, length = [], 0
    for piece in pieces:
        length += len(piece)
        ends.append(None if rng.random() < 0.15 else length)
    logs = [[rng.choice([math.log(0.02), -rng.expovariate(0.3)]) for _ in pieces] for _ in range(3)]
    return {
        "id": f"drawn-{number:08d}-0", "audio": "/none.wav", "clip": "none.wav", "duration_seconds": 4.0,
        "cut_seconds": 0.5 + 3 * rng.random(), "messages": [{"role": "user", "content": "<audio>"}],
        "reference": "".join(pieces), "token_ids": [7] * len(pieces), "char_ends": ends,
        "greedy": [rng.choice([7, 7, 7, 8]) for _ in pieces], "logprobs": logs[0],
        "logprobs_full": logs[1], "logprobs_lookback": logs[2], "lookback_ms": 200.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of decisions over drawn rows, and the rows by id."""
    rng, out = random.Random(0), tmp_path_factory.mktemp("drawn")
    rows = [drawn_row(rng, number) for number in range(60)]
    scores = out / "scores.jsonl"
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = {"simulsa_threshold": 0.02, "simulsa_ratio_floor": 0.01}
    outcome = relabel(scores, keys, out / "decided", lambda *_: None)
    return outcome.folder, {row["id"]: row for row in rows}


def page_counts(page, choice):
    """Accepted tokens by id, as the page's rules decide."""
    call = "choice => Object.fromEntries(data.samples.map((row) => [row.id, acceptedTokens(row, choice)]))"
    return page.evaluate(call, choice)


def python_counts(rows, choice):
    keys = {f"simulsa_{key}": value for key, value in choice.items()}
    settings = AugmentSettings.from_keys(keys)
    return {identifier: decide(row, settings, V).accepted_tokens for identifier, row in rows.items()}


def choices(rule, boundary):
    """Bounds from one end of the scale to the other, and those that rows are exactly on."""
    rng = random.Random(1)
    for _ in range(150):
        bound = rng.choice([float(f"{10 ** rng.uniform(-9, 0):.3g}"), 0.02, 1.0, 10 ** rng.uniform(-9, 0)])
        yield {
            "acceptance": rule, "boundary": boundary, "threshold": bound, "lookback_ms": 200.0,
            "ratio_threshold": bound * rng.choice([1, 10]), "ratio_floor": 10 ** rng.uniform(-6, 0),
        }  # fmt: skip


@pytest.mark.parametrize("boundary", ["token", "word"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("folder", ["demo", "drawn"])
def test_the_page_decides_as_python_does(request, open_page, folder, rule, boundary):
    if folder == "demo":
        path = request.getfixturevalue("demo")
        rows = {row["id"]: row for row in read_json_lines(path / "scores.jsonl")}
    else:
        path, rows = request.getfixturevalue("drawn")
    page = open_page(path / "report.html").page
    shown = {one["id"] for one in page.evaluate("data.samples")}
    assert len(shown) >= 10
    rows = {identifier: rows[identifier] for identifier in shown}
    found = set()
    for choice in choices(rule, boundary):
        wanted = python_counts(rows, choice)
        assert page_counts(page, choice) == wanted, choice
        found.add(tuple(wanted.values()))
    assert len(found) == 1 if rule == "greedy" else len(found) > 10


def decided(folder):
    return {row["id"]: row["accepted_tokens"] for row in read_json_lines(folder / "scores.jsonl")}


def test_it_opens_with_the_decisions_of_the_run(demo, open_page):
    page = open_page(demo / "report.html").page
    wanted, choice = decided(demo), page.evaluate("choice")
    assert page_counts(page, choice) == {one: wanted[one] for one in page.evaluate("data.samples.map(({id}) => id)")}
    assert page.locator("#summary").inner_text().endswith("0 decided differently from the run")


@pytest.mark.parametrize("rule", RULES)
def test_the_command_it_shows_makes_the_decisions_it_shows(demo, open_page, tmp_path, monkeypatch, rule):
    page = open_page(demo / "report.html").page
    page.select_option("#rule", rule)
    page.select_option("#boundary", "word")
    if rule != "greedy":
        slider = page.locator("#ratio_threshold-slider" if rule == "ratio" else "#threshold-slider")
        slider.focus()
        for _ in range(7):
            page.keyboard.press("PageDown")  # a tenth of the scale
        page.keyboard.press("ArrowRight")
    said = page.locator("article.sample").evaluate_all(
        "them => Object.fromEntries(them.map((one) => [one.dataset.id, one.querySelectorAll('.accepted').length]))"
    )
    words = page.locator("#command").inner_text().replace("OTHER", str(tmp_path / "other")).split()
    monkeypatch.chdir(demo.parent)
    assert words[0] == "simulsa-augment"
    assert command.main(words[1:]) == 0
    other = decided(tmp_path / "other" / "demo_simulsa")
    assert said == {one: other[one] for one in said}
    assert said != {one: decided(demo)[one] for one in said}


def test_the_slider_is_logarithmic_and_goes_with_the_number(demo, open_page):
    page = open_page(demo / "report.html").page
    slider, number = page.locator("#threshold-slider"), page.locator("#threshold")
    assert float(number.input_value()) == page.evaluate("data.choice.threshold")
    slider.fill("-3")
    assert number.input_value() == "0.001"
    number.fill("1e-5")
    assert float(slider.input_value()) == -5
    number.fill("7")  # not a probability: the last one stays
    assert page.evaluate("choice.threshold") == 1e-5
    page.click("#reset")
    assert page.evaluate("choice.threshold") == page.evaluate("data.choice.threshold")
    assert float(number.input_value()) == page.evaluate("data.choice.threshold")


def test_a_filter_shows_the_samples_of_a_kind(demo, open_page):
    page = open_page(demo / "report.html").page
    samples = page.evaluate("data.samples.map(({id, kinds}) => [id, kinds])")
    for kind in ("empty", "over", "near", "random"):
        page.select_option("#kind", kind)
        seen = page.locator("article.sample:visible").evaluate_all("them => them.map((one) => one.dataset.id)")
        assert seen == [identifier for identifier, kinds in samples if kind in kinds]
        assert seen
    page.select_option("#kind", "all")
    assert page.locator("article.sample:visible").count() == len(samples)


def test_words_against_the_truth_are_counted_again(demo, open_page):
    page = open_page(demo / "report.html").page
    rows = {row["id"]: row for row in read_json_lines(demo / "scores.jsonl")}
    manifest = json.loads((demo / "manifest.json").read_text(encoding="utf-8"))
    truth = find_truth("demo", {"file_name": manifest["source"]})
    for tau in (1.0, 1e-2, 1e-4, 1e-8):
        choice = {"acceptance": "threshold", "boundary": "token", "threshold": tau}
        for one in page.evaluate("data.samples"):
            row = rows[one["id"]]
            true = truth.true_partial(int(one["id"].split("-")[1]), row["reference"], row["cut_seconds"])
            partial = decide(row, AugmentSettings(threshold=tau), None).partial
            wanted = compare_partials(row["reference"], partial, true)
            call = "([id, choice]) => { const row = data.samples.find((one) => one.id === id);"
            call += " const count = acceptedTokens(row, choice); return [row.over[count], row.under[count]]; }"
            assert page.evaluate(call, [one["id"], choice]) == [wanted.over_words, wanted.under_words]


def test_clip_and_rest_play(demo, open_page):
    page = open_page(demo / "report.html").page
    for audio in page.locator("article.sample").first.locator("audio").all():
        played = audio.evaluate(
            "async (one) => { await one.play(); await new Promise((done) => setTimeout(done, 200));"
            " one.pause(); return one.currentTime; }"
        )
        assert played > 0


@pytest.mark.parametrize("dark", [False, True])
def test_bars_and_points_have_the_colours_of_the_theme(demo, open_page, dark):
    page = open_page(demo / "report.html", dark=dark).page
    call = """() => Object.values(Chart.instances).flatMap((chart) => chart.data.datasets.map((one, index) =>
        [chart.getDatasetMeta(index).data[0].options.backgroundColor,
         color(one.type === "line" ? "series-1" : "series-0")]))"""
    for _ in range(2):  # as it opens, and after the switch
        drawn = page.evaluate(call)
        assert len(drawn) == 3
        assert [found for found, _ in drawn] == [wanted for _, wanted in drawn]
        page.click("#theme")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (2560, False)])
def test_it_is_for_every_screen_and_reader(demo, open_page, width, dark):
    opened = open_page(demo / "report.html", width, dark)
    assert opened.width() == width
    for details in opened.page.locator("details").all():
        details.evaluate("(one) => { one.open = true; }")
    assert opened.serious() == []
    for rule in RULES:
        opened.page.select_option("#rule", rule)
        assert opened.serious() == []


def test_references_that_hold_html_stay_text(drawn, open_page):
    folder, _ = drawn
    page = open_page(folder / "report.html").page
    assert page.locator("article.sample b").count() == 0
    assert "</b>" in page.locator(".samples").inner_text()

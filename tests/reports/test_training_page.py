"""The page of a training in a browser."""

import pytest
from helpers.fakes import write_noise

from simulsa_plugin.evaluation.training_examples import Example, TrainingExamples
from simulsa_plugin.evaluation.training_page import write_training_page

pytestmark = pytest.mark.browser
KEY = {"policy": "rollback", "rollback": 3, "parameters": {}, "instances": 20, "empty": 1, "truncated_steps": 0}


@pytest.fixture
def page_file(tmp_path):
    rows = [
        KEY | {"chunk_ms": chunk, "step": step, "BLEU": step / 10 + chunk / 100, "LAAL": 900.0 + chunk, "NE": 0.1}
        for step in (100, 200, 300)
        for chunk in (500, 1000)
    ]
    audio = write_noise(tmp_path / "one.wav", 1.0, seed=1)
    texts = {"k500_b3": "[0.5] guten [1] <i>Tag</i>", "k1000_b3": ""}
    examples = TrainingExamples("toy", ("k500_b3", "k1000_b3"), (Example("one.wav", audio, "guten Tag", texts),))
    write_training_page(tmp_path / "simulsa_eval.html", rows, examples)
    return tmp_path / "simulsa_eval.html"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (2560, False)])
def test_it_opens_at_every_width_and_axe_finds_nothing_serious(open_page, page_file, width, dark):
    opened = open_page(page_file, width, dark)
    assert opened.width() == width
    assert opened.serious() == []
    assert opened.page.locator("#over-steps .chart canvas").count() == 3  # BLEU, LAAL, NE
    assert opened.page.locator("audio").count() == 1
    assert "<i>Tag</i>" in opened.page.inner_text("main")


def test_the_lines_are_the_evaluations(open_page, page_file):
    page = open_page(page_file).page
    chart = "Chart.getChart(document.querySelector('#over-steps canvas'))"
    lines = page.evaluate(f"{chart}.data.datasets[0].data.map((point) => [point.x, point.y])")
    assert lines == [[100, 15], [200, 25], [300, 35]]
    assert page.locator("table tbody tr").count() == 6

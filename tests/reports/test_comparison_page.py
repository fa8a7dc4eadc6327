"""The page of a comparison in a browser: charts, sorting, phone and dark, and nothing asked for."""

import pytest
from helpers.results import STRONG, curve, write_result

from simulsa_plugin.commands.evaluate import main

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    place = tmp_path_factory.mktemp("comparison")
    folders = [write_result(place / name, curve(shift)) for name, shift in (("slow", 200.0), ("quick", 0.0))]
    log = folders[0] / "rollback_k500_b0" / "instances.log"
    out = place / "report.html"
    assert main(["report", *map(str, [*folders, log]), "--out", str(out), "--samples", "40", "--trials", "40"]) == 0
    return out


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (2560, False)])
def test_it_opens_at_every_width_and_axe_finds_nothing_serious(open_page, page_file, width, dark):
    opened = open_page(page_file, width, dark)
    assert opened.width() == width
    assert opened.serious() == []
    assert opened.page.locator("#curves .chart canvas").count() == 2  # BLEU, chrF
    opened.page.click("#theme")
    assert opened.serious() == []


def test_the_charts_have_every_result(open_page, page_file):
    page = open_page(page_file).page
    labels = page.evaluate("Chart.getChart(document.querySelector('canvas')).data.datasets.map((one) => one.label)")
    assert labels[:1] == ["slow"] and "quick" in labels and "rollback_k500_b0/instances.log" in labels
    xs = page.evaluate("Chart.getChart(document.querySelector('canvas')).data.datasets[0].data.map((one) => one.x)")
    assert xs == sorted(xs) and len(xs) == 3


def test_the_table_of_all_cells_sorts_by_a_click(open_page, page_file):
    page = open_page(page_file).page
    table = page.get_by_role("table", name="All cells")
    table.get_by_role("button", name="LAAL ms").click()
    column = table.locator("thead th").all_inner_texts().index("LAAL ms")
    cells = table.locator(f"tbody tr td:nth-child({column + 1})")
    values = cells.evaluate_all("all => all.map(one => +one.dataset.value)")
    assert values == sorted(values, reverse=True) and len(values) == 7


def test_the_first_screen_has_the_gain_at_equal_latency(open_page, page_file):
    page = open_page(page_file).page
    (gain,) = [text for text in page.locator(".cards li").all_inner_texts() if "at equal LAAL" in text]
    assert gain.split()[0] in page.locator("h3 + p").first.inner_text()  # the sentence of the verdict


def test_a_log_alone_begins_with_its_values(open_page, tmp_path):
    assert main(["report", str(STRONG), "--out", str(tmp_path / "report.html")]) == 0
    page = open_page(tmp_path / "report.html").page
    heads = page.get_by_role("table", name="All cells").locator("thead th").all_inner_texts()
    values = page.get_by_role("table", name="All cells").locator("tbody td").all_inner_texts()
    table = dict(zip(heads, (value.split()[0] for value in values if value), strict=False))
    shown = dict(reversed(text.split("\n")) for text in page.locator(".cards li").all_inner_texts())
    assert (shown["BLEU"], shown["LAAL"]) == (table["BLEU"], f"{table['LAAL ms']} ms")

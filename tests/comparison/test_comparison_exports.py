"""Files of a comparison: HTML, pictures, Markdown, LaTeX, and the page of `simulsa-eval report`."""

import json
import re
import shutil
import zlib

import pytest
from helpers.results import curve, write_result

from simulsa_plugin import EvaluationResult, UsageError, compare, report
from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.comparison.blocks import Heading, Paragraph, Table, latex, markdown, terminal_lines
from simulsa_plugin.comparison.names import short_names
from simulsa_plugin.comparison.picture import comparison_figure
from simulsa_plugin.tables import styled

EVIL = "a|b_*<i>&%$#{}~^\\[x](y)\x1b[31m"
QUICK = ["--samples", "40", "--trials", "40"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    return write_result(place / "slow", curve(200.0)), write_result(place / "quick", curve())


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    """Every file of one comparison, by its kind."""
    place = tmp_path_factory.mktemp("files")
    kinds = ("json", "html", "png", "pdf", "markdown", "latex")
    paths = {kind: place / f"comparison.{kind}" for kind in kinds}
    words = [word for kind, path in paths.items() for word in (f"--{kind}", str(path))]
    assert main(["compare", *map(str, folders), *QUICK, *words]) == 0
    return paths


def test_the_values_of_the_json_are_in_every_text(written):
    comparison = json.loads(written["json"].read_text(encoding="utf-8"))
    (pair,) = comparison["comparisons"]
    value = pair["cells"][0]["metrics"]["LAAL"]
    row = [f"{value['baseline']:.0f}", f"{value['other']:.0f}", f"{value['difference']:+.0f}"]
    verdict = pair["equal_latency"][0]["verdict"]
    page, text, tex = (written[kind].read_text(encoding="utf-8") for kind in ("html", "markdown", "latex"))
    assert f"| rollback k=500 b=0 | {row[0]} | {row[1]} | **{row[2]}** |" in text
    assert f"rollback k=500 b=0 & {row[0]} & {row[1]} & \\textbf{{{row[2]}}} &" in tex
    assert f">{row[0]}</td>" in page and re.search(rf'class="number best"[^>]*>{re.escape(row[2])}</td>', page)
    assert verdict in page and verdict in text and verdict.replace("%", "\\%") in tex


def test_tables_in_latex_are_whole_and_of_booktabs(written):
    tex = written["latex"].read_text(encoding="utf-8")
    found = re.findall(r"\\begin\{tabular\}\{(l?r*)\}\n\\toprule\n(.*?)\\bottomrule", tex, re.S)
    assert len(found) >= 4
    for columns, body in found:
        rows = [row for row in body.splitlines() if row != "\\midrule"]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
        assert all(row.endswith(" \\\\") for row in rows)


def test_pictures_are_what_their_names_say_and_have_no_time_of_day(written, folders, tmp_path):
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    pdf = written["pdf"].read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf and b"/Subtype /Image" not in pdf  # vectors
    kinds = ("png", "pdf", "html")
    again = [tmp_path / f"again.{kind}" for kind in kinds]
    words = [word for kind, path in zip(kinds, again, strict=True) for word in (f"--{kind}", str(path))]
    assert main(["compare", *map(str, folders), *QUICK, *words]) == 0
    assert [path.read_bytes() for path in again] == [written[kind].read_bytes() for kind in kinds]


def test_the_letters_of_a_pdf_stay_letters(written):
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", written["pdf"].read_bytes(), re.S)
    content = [zlib.decompress(one) for one in streams if one[:1] == b"x"]
    assert any((b"BT" in one and b"Tj" in one) or b"TJ" in one for one in content)
    assert b"/TrueType" in written["pdf"].read_bytes() or b"/CIDFontType2" in written["pdf"].read_bytes()


def test_a_page_names_nothing_that_a_reader_could_lack(written):
    page = written["html"].read_text(encoding="utf-8")
    assert not re.findall(r"<(?:link|script|img|audio)[^>]*(?:src|href)=", page)
    assert "<b>m</b>" not in page and "&lt;b&gt;m&lt;/b&gt;" in page  # the model's name is a text
    assert len(page) < 1_000_000


@pytest.mark.parametrize("kind", ["json", "html", "png", "pdf", "markdown", "latex"])
def test_no_output_replaces_what_is_read(folders, kind, capsys):
    log = folders[1] / "rollback_k500_b0" / "instances.log"
    before = log.read_bytes()
    assert main(["compare", *map(str, folders), *QUICK, f"--{kind}", str(log)]) == 2
    assert "is read, and would be replaced by the output" in capsys.readouterr().err
    assert log.read_bytes() == before


def test_two_outputs_of_one_name_are_refused(folders, tmp_path, capsys):
    same = str(tmp_path / "x")
    assert main(["compare", *map(str, folders), *QUICK, "--html", same, "--markdown", same]) == 2
    assert f"{same} would be written twice." in capsys.readouterr().err


def test_the_python_function_gives_the_same_texts(folders, written, tmp_path):
    found = compare(*folders, samples=40, trials=40, html=tmp_path / "page.html")
    assert found.to_markdown() == written["markdown"].read_text(encoding="utf-8")
    assert found.to_latex() == written["latex"].read_text(encoding="utf-8")
    assert (tmp_path / "page.html").read_bytes() == written["html"].read_bytes()


def test_logs_are_drawn_as_points(folders):
    logs = [folder / "rollback_k500_b0" / "instances.log" for folder in folders]
    comparison = compare(*logs, samples=20, trials=20).comparison
    (axes,) = comparison_figure(comparison).axes
    metrics = comparison["comparisons"][0]["cells"][0]["metrics"]
    drawn = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.get_lines()]
    assert drawn == [(metrics["LAAL"][side], metrics["BLEU"][side]) for side in ("baseline", "other")]


# Texts


def test_texts_of_anybody_are_texts_in_markdown_and_latex():
    blocks = [Heading(EVIL, 1), Paragraph((EVIL,)), Table([[EVIL, "BLEU"], ["[a]", styled("1_0", "better")]])]
    text, tex = markdown(blocks), latex(blocks)
    assert "\x1b" not in text + tex
    assert "<i>" not in text.replace("\\<i\\>", "") and "\\[x\\](y)" in text
    assert "| [a] | **1\\_0** |" in text
    assert "a|b\\_*<i>\\&\\%\\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in tex
    assert "\n{}[a] & \\textbf{1\\_0} \\\\" in tex  # no argument of the line before
    assert terminal_lines(blocks)[0] == EVIL  # escaped by the stream that prints it


def test_names_are_as_long_as_they_must_be():
    assert short_names(["x/a/results", "x/b/results"]) == {"x/a/results": "a/results", "x/b/results": "b/results"}
    assert short_names(["x/a/instances.log", "y"]) == {"x/a/instances.log": "a/instances.log", "y": "y"}


# `simulsa-eval report`


def test_a_report_has_folders_and_logs_and_their_sentences(folders, tmp_path, capsys):
    log = shutil.copy(folders[0] / "rollback_k1000_b0" / "instances.log", tmp_path / "foreign.log")
    out = tmp_path / "report.html"
    assert main(["report", *map(str, folders), str(log), "--out", str(out), *QUICK]) == 0
    printed = capsys.readouterr().out
    page = out.read_text(encoding="utf-8")
    (sentence,) = re.findall(r"foreign\.log: (At \d+ ms of LAAL, where foreign\.log .*)", printed)
    assert sentence in page
    assert re.search(r"the curve of slow has \d+\.\d\d: \+0\.00 BLEU \[.*\], which is not significant", sentence)
    assert page.count("<td>foreign.log</td>") == 1 and "<td>quick</td>" in page and "<td>slow</td>" in page
    assert "At equal LAAL" in page


def test_the_function_writes_the_page_of_the_command_and_returns_what_it_shows(folders, tmp_path, capsys):
    log = shutil.copy(folders[0] / "rollback_k1000_b0" / "instances.log", tmp_path / "foreign.log")
    results = [*map(str, folders), str(log)]
    words = ["--at", "900", "--quality", "chrF", "--latency", "DAL"]
    assert main(["report", *results, "--out", str(tmp_path / "command.html"), *words, *QUICK]) == 0
    printed = capsys.readouterr().out.splitlines()
    shown = report(
        EvaluationResult.read(results[0]),
        *results[1:],
        out=tmp_path / "function.html",
        at=[900],
        quality="chrF",
        latency="DAL",
        samples=40,
        trials=40,
    )
    assert (tmp_path / "function.html").read_bytes() == (tmp_path / "command.html").read_bytes()
    assert shown.verdict.splitlines() == printed[:2]
    assert {"DAL", "chrF"} <= set(shown.to_frame()["metric"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"quality": "TER"}, "quality is 'TER'; allowed: BLEU, chrF, COMET"), ({"latency": "Lag"}, "Lag")],
)
def test_the_function_refuses_what_the_command_refuses_and_writes_nothing(folders, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        report(*folders, out=tmp_path / "report.html", **options)
    assert list(tmp_path.glob("*.html")) == []


def test_the_report_of_one_result_has_its_values_alone(folders, tmp_path):
    out = tmp_path / "report.html"
    assert main(["report", str(folders[0]), "--out", str(out), *QUICK]) == 0
    page = out.read_text(encoding="utf-8")
    assert "<h1>slow</h1>" in page and "At equal latency" not in page


def test_a_report_of_results_that_were_measured_differently_is_refused(folders, tmp_path, capsys):
    log = folders[0] / "rollback_k1000_b0" / "instances.log"
    out = tmp_path / "report.html"
    assert main(["report", str(folders[0]), str(log), "--tokenizer", "char", "--out", str(out)]) == 2
    assert "measured differently" in capsys.readouterr().err
    assert not out.exists()
    assert main(["report", str(folders[0]), str(log), "--out", str(log)]) == 2
    assert "is read, and would be replaced" in capsys.readouterr().err

"""The worked example of docs/measures.md: its tables are what the metrics give, and its figure is the one they draw."""

import importlib.util
import re

from documents import REPOSITORY

PAGE = (REPOSITORY / "docs" / "measures.md").read_text(encoding="utf-8")


def plotted():
    spec = importlib.util.spec_from_file_location("plot_delays", REPOSITORY / "docs" / "figures" / "plot_delays.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_steps_are_those_of_the_page():
    rows = re.findall(r"^\| (\d+) ms \| (.+?) \| (.+?) \| (\d+) ms \|$", PAGE, re.MULTILINE)
    steps = [
        (f"{step.audio_ms:g}", step.shown, step.committed or "–", f"{step.compute_ms:g}") for step in plotted().STEPS
    ]
    assert rows == steps


def test_delays_and_clocks_are_those_of_the_page():
    for name, values in plotted().example().items():
        label = {"cumulative": "cumulative clock", "per_step": "per-step clock", "queue": "queue clock"}
        assert f"| {label.get(name, name.replace('_', ' '))} | {' | '.join(f'{one:g}' for one in values)} |" in PAGE


def test_metrics_are_those_of_the_page():
    metrics = plotted().metrics()
    assert metrics["AL"] == metrics["LAAL"]
    for name, shown in (("LAAL", 1800), ("YAAL", 1866.7), ("DAL", 2160), ("AP", 0.8), ("NE", 0.2)):
        assert f"**{shown}" in PAGE
        assert round(metrics[name], 1) == shown
    assert "StartOffset = **2000 ms**, EndOffset = **0 ms**" in PAGE
    assert (metrics["StartOffset"], metrics["EndOffset"]) == (2000, 0)


def test_the_figure_can_be_drawn(tmp_path):
    plotted().draw(tmp_path / "delays.svg")
    assert (tmp_path / "delays.svg").stat().st_size > 10_000

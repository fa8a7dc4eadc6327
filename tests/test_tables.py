"""Tables on a terminal: within its width, and coloured only where it shows colours. Expected values: by hand."""

import io
import sys

import pytest

from simulsa_plugin.comparison.comparison_tables import comparison_tables, pair_notes
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.tables import Span, StyledText, align, align_wrapped, styled, without_empty_columns
from simulsa_plugin.terminal import SafeStream, print_lines

RED, GREEN, BOLD, END = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def row(policy, chunk_ms, parameters, **metrics):
    key = {"policy": policy, "chunk_ms": chunk_ms, "rollback": 0, "parameters": parameters}
    counts = {"skipped": dict.fromkeys(metrics, 0)}
    return key | metrics | {"instances": 4, "empty": 0, "skipped": 0, "counts": counts}


LATENCIES = dict.fromkeys(("AL", "LAAL", "AP", "DAL", "ATD", "YAAL", "StartOffset", "EndOffset"), 1234.5678)
CELLS = [
    row("confidence", k, {"confidence_threshold": 0.999, "confidence_window": 2}, BLEU=k / 100, NE=0.5, **LATENCIES)
    for k in (500, 1000)
]


def test_the_table_of_cells_fits_a_terminal_and_shows_the_parameters():
    lines = cells_table(CELLS)
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("confidence k=500 b=0 confidence_threshold=0.999 confidence_window=2  ")
    assert lines[0].split() == ["cell", "BLEU", "LAAL", "YAAL", "NE", "AL"]  # chrF has no value, AP no room
    assert lines[1].split()[-5:] == ["5.00", "1235", "1235", "0.500", "1235"]
    assert "also in scores.tsv: AP, DAL, ATD, StartOffset, EndOffset" in lines


def test_counts_stand_in_the_table_where_they_say_something():
    partial = [CELLS[0], CELLS[1] | {"empty": 2, "counts": {"skipped": {"LAAL": 2}}}]
    lines = cells_table(partial)
    assert lines[0].split()[-1] == "empty" and [line.split()[-1] for line in lines[1:3]] == ["0", "2"]
    assert "1235 (2/4)" in lines[2] and "(2/4)" not in lines[1]


def test_the_best_streaming_value_is_emphasised():
    offline = row("offline", None, {}, BLEU=99.0, NE=0.0, **LATENCIES)
    lines = cells_table([offline, *CELLS])
    emphasised = [[line[span.start : span.end] for span in getattr(line, "spans", ())] for line in lines[:4]]
    assert emphasised == [[], [], [], ["10.00"]]  # latencies and NE are equal


def test_columns_beyond_the_width_follow_below_with_the_cells_again():
    rows = [["cell", "a" * 40, "b" * 40, "c" * 40], ["one", "1", "2", "3"]]
    assert [line.split() for line in align_wrapped(rows, 100)] == [
        ["cell", "a" * 40, "b" * 40],
        ["one", "1", "2"],
        [],
        ["cell", "c" * 40],
        ["one", "3"],
    ]
    assert len(align_wrapped([["cell", "x" * 200], ["one", "1"]], 100)) == 2  # nothing to wrap at


def test_a_style_stays_on_its_cell_when_rows_are_aligned():
    lines = align([["cell", "BLEU", "p"], ["offline", styled("9", "best"), styled("10.25", "worse")]])
    assert lines[1].spans == (Span(12, 13, "best"), Span(15, 20, "worse"))
    assert [lines[1][span.start : span.end] for span in lines[1].spans] == ["9", "10.25"]
    assert without_empty_columns([["cell", "p"], ["offline", styled("9", "best")]])[1][1].spans  # kept


def printed(monkeypatch, stream, *lines):
    monkeypatch.setattr(sys, "stdout", SafeStream(stream))
    print_lines(lines)
    return stream.getvalue()


LINE = StyledText("a\x1b[31m +1.0 -2.0", [Span(7, 11, "better"), Span(12, 16, "worse")])


def test_colours_are_for_terminals_and_foreign_escape_sequences_for_none(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    foreign = "a\\x1b[31m"
    assert printed(monkeypatch, Terminal(), LINE) == f"{foreign} {GREEN}+1.0{END} {RED}-2.0{END}\n"
    assert printed(monkeypatch, io.StringIO(), LINE) == f"{foreign} +1.0 -2.0\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_user_who_wants_no_colours_gets_none(monkeypatch, name, value):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in printed(monkeypatch, Terminal(), LINE)


def compared(**values):
    key = {"policy": "wait_k", "chunk_ms": 500, "rollback": None, "parameters": {"wait_k": 3}, "missing": None}
    return key | {"instances": {"baseline": 9, "other": 9}, "metrics": values}


def metric(difference, low, high, p_value=None, differing=9):
    found = {"baseline": 1.0, "other": 1.0 + difference, "difference": difference, "interval": [low, high]}
    measured = {"measured": {"baseline": 9, "other": 9}}
    test = (
        {} if p_value is None else dict.fromkeys(("randomisation_p_value", "sacrebleu_randomisation_p_value"), p_value)
    )
    return found | measured | test | {"differing": differing, "utterances": 9}


def partly(chunk_ms, differing, measured):
    """A cell with one utterance too few to tell, and values of some instances of the other result."""
    values = metric(1.0, 0.5, 2.0, 0.2, differing)
    values |= {"measured": {"baseline": 9, "other": measured}}
    return compared(BLEU=values, LAAL=values | {"differing": None}) | {"chunk_ms": chunk_ms}


def test_a_note_that_holds_for_several_cells_is_one_line_with_their_names():
    fine = partly(300, 9, 9)
    assert pair_notes([partly(500, 4, 8), fine, partly(1000, 2, 6)], "ms") == [
        "wait_k k=500 wait_k=3, wait_k k=1000 wait_k=3: 2 to 4 of 9 utterances differ in BLEU, too few to tell",
        "wait_k k=500 wait_k=3, wait_k k=1000 wait_k=3: of the other's 9 instances, 6 to 8 have a value of BLEU, LAAL",
    ]
    assert pair_notes([partly(k, 1, 9) for k in (500, 1000, 2000)], "ms") == [
        "all 3 cells: 1 of 9 utterances differ in BLEU, too few to tell"
    ]
    assert pair_notes([fine], "ms") == []


def test_significant_differences_are_better_or_worse_by_the_metrics_direction():
    cells = [
        compared(BLEU=metric(2.0, 1.0, 3.0, 0.01), LAAL=metric(50.0, 10.0, 90.0), chrF=metric(1.0, 0.5, 2.0, 0.2)),
        compared(BLEU=metric(2.0, 1.0, 3.0, 0.01, differing=4), LAAL=metric(-50.0, -90.0, -10.0)),
    ]
    comparison = {
        "baseline": "a",
        "scale": {"unit": "word", "length": "reference", "tokenizer": "13a", "time": "ms"},
        "bootstrap": {"method": "paired", "samples": 1000, "trials": 10, "seed": 1},
        "comparisons": [{"other": "b", "cells": cells, "equal_latency": []}],
    }
    lines = comparison_tables(comparison)
    styles = [(line[span.start : span.end], span.style) for line in lines for span in getattr(line, "spans", ())]
    assert styles == [("+2.00", "better"), ("+50", "worse"), ("-50", "better")]  # not chrF with its p, nor of 4
    assert "wait_k k=500 wait_k=3: 4 of 9 utterances differ in BLEU, too few to tell" in lines
    tables = [line for line in lines if line.startswith(("BLEU", "LAAL", "chrF", "wait_k k=500 wait_k=3  "))]
    assert len(tables) == 9 and max(map(len, tables)) <= 100

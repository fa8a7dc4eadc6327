"""BLEU and chrF. Expected values: sacrebleu 2.6.0 (tests/data/latency/README.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.files import read_texts
from sacrebleu.tokenizers import tokenizer_intl

from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.metrics import quality

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))["files"]
BLEUS = [
    (name, key[5:-1])
    for name in ORACLE
    for key in ORACLE[name].get("sacrebleu", {})
    if key.startswith("BLEU[") and "mecab" not in key
]  # an extra of sacrebleu
CHRFS = [name for name in ORACLE if "sacrebleu" in ORACLE[name]]


def without_version(signature: str) -> str:
    return signature.rpartition("|version:")[0]


@pytest.mark.parametrize(("name", "tokenizer"), BLEUS)
def test_bleu_and_its_signature_are_sacrebleus(name, tokenizer):
    expected = ORACLE[name]["sacrebleu"]
    bleu, _ = quality.make_metrics(tokenizer)
    counts = bleu.statistics(*read_texts(DATA / name))
    assert bleu.score(counts.sum(axis=0)) == pytest.approx(expected[f"BLEU[{tokenizer}]"]["score"], rel=1e-9)
    assert without_version(bleu.signature) == without_version(expected[f"BLEU[{tokenizer}]"]["signature"])
    assert bleu.sentence_scores(counts) == pytest.approx(expected[f"sentence_BLEU[{tokenizer}]"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CHRFS)
def test_chrf_and_its_signature_are_sacrebleus(name):
    expected = ORACLE[name]["sacrebleu"]
    _, chrf = quality.make_metrics("13a")
    counts = chrf.statistics(*read_texts(DATA / name))
    assert chrf.score(counts.sum(axis=0)) == pytest.approx(expected["chrF"]["score"], rel=1e-9)
    assert without_version(chrf.signature) == without_version(expected["chrF"]["signature"])
    assert chrf.sentence_scores(counts) == pytest.approx(expected["sentence_chrF"], rel=1e-9, abs=1e-9)


def test_scores_of_rows_are_the_scores_of_each():
    for metric in quality.make_metrics("13a"):
        counts = metric.statistics(*read_texts(DATA / "word.instances.log"))
        sums = [counts[:50].sum(axis=0), counts[50:].sum(axis=0)]
        assert metric.scores(sums).tolist() == [metric.score(row) for row in sums]


def test_an_unknown_tokenizer_names_those_there_are():
    with pytest.raises(UsageError, match=r"'31a'; allowed: .*13a.*zh"):
        quality.make_metrics("31a")


def test_a_tokenizer_whose_package_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    with pytest.raises(MissingExtraError, match=r"ja-mecab.*sacrebleu\[ja\]"):
        quality.make_metrics("ja-mecab")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("nothing"), ImportError("nothing"), OSError("nothing"), AssertionError("nothing"), AssertionError()],
)
@pytest.mark.parametrize("when", ["__init__", "__call__"])
def test_a_tokenizer_that_fails_when_it_starts_or_when_it_is_first_used_shows_at_once(monkeypatch, error, when):
    def fail(*_):
        raise error

    monkeypatch.setattr(tokenizer_intl.TokenizerV14International, when, fail)
    with pytest.raises(MissingExtraError, match=r"tokenizer intl cannot start: (nothing|AssertionError)$"):
        quality.make_metrics("intl")

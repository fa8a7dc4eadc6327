"""BLEU and chrF. Expected values: sacrebleu 2.6.0 (tests/data/latency/README.md)."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
from helpers.files import read_texts
from hypothesis import given
from hypothesis import strategies as st
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


# Whitespace of Unicode, a surrogate, an emoji of several code points, and what tokenizers cut apart.
CHARACTERS = st.sampled_from(
    ["a", "b", "ä", " ", "\u3000", "\t", ".", ",", "-", "1", "我", "们", "👩‍💻", "\ud800", "\x00"]
)
TEXTS = st.lists(CHARACTERS, max_size=14).map("".join)


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char"])
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=9), data=st.data())
def test_counts_are_sacrebleus(tokenizer, pairs, data):
    if data.draw(st.booleans()):  # so many characters that six of them do not fit into 64 bits
        pairs.append(("".join(map(chr, range(0x4E00, 0x4E00 + 3000))), "".join(map(chr, range(0x5000, 0x5C00)))))
    hypotheses, references = map(list, zip(*pairs, strict=True))
    for metric in _metrics(tokenizer):
        expected = metric._corpus._extract_corpus_statistics(hypotheses, [references])
        assert metric.statistics(hypotheses, references).tolist() == expected


@functools.cache
def _metrics(tokenizer):
    return quality.make_metrics(tokenizer)


def test_sentences_of_several_blocks_are_counted_in_order(monkeypatch):
    texts = read_texts(DATA / "word.instances.log")
    for metric in quality.make_metrics("13a"):
        expected = metric.statistics(*texts)
        for size in (1, 7):
            monkeypatch.setattr(quality, "SENTENCES_AT_ONCE", size)
            assert (metric.statistics(*texts) == expected).all()
        assert metric.statistics([], []).shape == (0, expected.shape[1])


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
    with pytest.raises(MissingExtraError, match=r"ja-mecab cannot start: .*: pip install 'sacrebleu\[ja\]'\.$"):
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

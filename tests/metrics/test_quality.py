"""BLEU and chrF. Expected values: sacrebleu 2.6.0 (tests/data/latency/README.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.metrics import quality

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))["files"]
BLEUS = [(name, key[5:-1]) for name in ORACLE for key in ORACLE[name].get("sacrebleu", {}) if key.startswith("BLEU[")]
CHRFS = [name for name in ORACLE if "sacrebleu" in ORACLE[name]]


def read_texts(name: str) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    return [row["prediction"] for row in rows], [row["reference"] for row in rows]


def without_version(signature: str) -> str:
    return signature.rpartition("|version:")[0]


@pytest.mark.parametrize(("name", "tokenizer"), BLEUS)
def test_bleu_and_its_signature_are_sacrebleus(name, tokenizer):
    expected = ORACLE[name]["sacrebleu"]
    scored = quality.bleu(*read_texts(name), tokenizer, sentences=True)
    assert scored.score == pytest.approx(expected[f"BLEU[{tokenizer}]"]["score"], rel=1e-9)
    assert without_version(scored.signature) == without_version(expected[f"BLEU[{tokenizer}]"]["signature"])
    assert scored.sentences == pytest.approx(expected[f"sentence_BLEU[{tokenizer}]"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CHRFS)
def test_chrf_and_its_signature_are_sacrebleus(name):
    expected = ORACLE[name]["sacrebleu"]
    scored = quality.chrf(*read_texts(name), sentences=True)
    assert scored.score == pytest.approx(expected["chrF"]["score"], rel=1e-9)
    assert without_version(scored.signature) == without_version(expected["chrF"]["signature"])
    assert scored.sentences == pytest.approx(expected["sentence_chrF"], rel=1e-9, abs=1e-9)


def test_an_unknown_tokenizer_names_those_there_are():
    with pytest.raises(UsageError, match=r"'31a'; allowed: .*13a.*zh"):
        quality.bleu(["a"], ["a"], "31a")


def test_a_tokenizer_whose_package_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    with pytest.raises(MissingExtraError, match=r"ja-mecab.*sacrebleu\[ja\]"):
        quality.bleu(["a"], ["a"], "ja-mecab")

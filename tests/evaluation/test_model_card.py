"""model_card.md, as the card parser of huggingface_hub reads it."""

import pytest
from helpers.files import read_json
from helpers.results import curve, write_result
from huggingface_hub import ModelCard

from simulsa_plugin.evaluation.model_card import model_card


@pytest.fixture
def scores(tmp_path):
    found = read_json(write_result(tmp_path / "result", curve()) / "scores.json")
    return found | {"cells": [cell | {"empty": 0, "skipped": 0} for cell in found["cells"]]}


def test_its_values_are_those_of_the_result(scores):
    card = ModelCard(model_card(scores), ignore_metadata_errors=False)
    found = {(one.metric_type, one.metric_name): one.metric_value for one in card.data.eval_results}
    for cell in scores["cells"]:
        name = f"rollback k={cell['chunk_ms']} b=0"
        assert found.pop(("bleu", f"BLEU, {name}")) == pytest.approx(cell["BLEU"], abs=1e-4)
        assert found.pop(("chrf", f"chrF, {name}")) == pytest.approx(cell["chrF"], abs=1e-4)
        assert found.pop(("laal", f"LAAL (ms), {name}")) == pytest.approx(cell["LAAL"], abs=1e-4)
        assert f"| {name} | " in card.text
    assert found == {}
    assert {one.dataset_name for one in card.data.eval_results} == {"test"}
    assert "![Quality over latency](curves.png)" in card.text
    for name, signature in scores["signatures"].items():
        assert f"{name}: {signature}" in card.text.splitlines()


def test_a_hostile_name_ends_no_table_no_code_and_no_metadata(scores):
    name = "x\n---\n# y | <b>`[z](w)\n```\n"
    card = ModelCard(model_card(scores | {"dataset": name, "model": {"model": name}}))
    assert card.data.model_name == name
    assert {one.dataset_name for one in card.data.eval_results} == {name}
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    assert len(headings) == 1 and headings[0].endswith(r"x\\x0a---\\x0a\# y \| \<b\>\`[z\](w)\\x0a\`\`\`\\x0a")
    assert card.text.count("\n````") == 2  # round the command, which has the name


def test_of_a_model_of_this_machine_it_names_the_last_part(scores):
    described = {"model": "/home/me/base", "adapter": ["/home/me/saves/simulsa"]}
    text = model_card(scores | {"model": described})
    assert ModelCard(text).data.model_name == "simulsa" and "/home/me" not in text

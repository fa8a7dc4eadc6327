"""LLaMA Board with the plugin: its fields fill the extra arguments, and its tab runs the commands."""

import json
import re

import pytest
from helpers.browser import launched
from helpers.llama_board import augment_demo, running_board
from helpers.processes import wait_until

from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.llamafactory.board.tab import _PROGRAMS, LINES_SHOWN, Program, recipe_of

CHOSEN = {
    "top.model_name": "Custom",
    "top.model_path": "simulsa-demo",
    "top.finetuning_type": "lora",
    "top.checkpoint_path": [],
    "top.template": "qwen2_audio",
    "train.dataset": ["demo", "more"],
    "train.dataset_dir": "data",
}


@pytest.fixture(scope="module")
def interface():
    """LLaMA Board's module, extended on import."""
    pytest.importorskip("gradio")
    from simulsa_plugin.llamafactory.plugin.autoload import activate

    activate()
    from llamafactory.webui import interface

    return interface


def test_the_fields_and_the_tab_are_beside_llama_boards_own(interface):
    labels = [block.label for block in interface.create_ui().blocks.values() if getattr(block, "label", None)]
    for label in ("Test set", "Policies", "SimulSA: simultaneous decoding at every evaluation", "SimulSA"):
        assert labels.count(label) == 1
    assert labels.index("Train") < labels.index("Test set") < labels.index("SimulSA")


def test_llama_board_translates_and_saves_its_own_elements_as_before(interface):
    import gradio as gr
    from llamafactory.webui.engine import Engine

    engine = Engine()
    with gr.Blocks():
        engine.manager.add_elems("top", interface.create_top())
        elements = interface.create_train_tab(engine)
        engine.manager.add_elems("train", elements)
    assert not [name for name in elements if "simulsa" in name]
    assert len(engine.change_lang("zh")) > 50


def test_the_recipe_has_what_is_chosen():
    expected = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
    expected |= {"dataset": "demo,more", "dataset_dir": "data"}
    assert recipe_of(CHOSEN) == expected
    adapters = recipe_of(CHOSEN | {"top.checkpoint_path": ["one", "two"]})["adapter_name_or_path"]
    assert re.fullmatch(r"saves/Custom/lora/one,saves/Custom/lora/two", adapters)
    whole = recipe_of(CHOSEN | {"top.checkpoint_path": "one", "top.finetuning_type": "full", "train.dataset": None})
    assert whole == {"model_name_or_path": "saves/Custom/full/one", "template": "qwen2_audio", "dataset_dir": "data"}


def test_a_program_prints_as_it_goes_and_one_runs_at_a_time(tmp_path):
    program = Program()
    outputs = program.run("augment", [str(tmp_path / "missing.yaml")])
    assert next(outputs) == f"$ simulsa-augment {tmp_path / 'missing.yaml'}"
    *_, last = outputs
    assert "missing.yaml" in last
    assert last.endswith("ended with exit code 2")


PRINTS_MUCH = """
import pathlib, sys
def main():
    for number in range(3000):
        print(f"line {number} " + "x" * 80)
    sys.stdout.buffer.write(b"\\xff\\n")
    pathlib.Path(sys.argv[1]).write_text("done")
"""


@pytest.fixture
def printing_program(tmp_path, monkeypatch):
    """A program that prints 270 kB, which no pipe holds, and then writes the file that it is given."""
    (tmp_path / "prints_much.py").write_text(PRINTS_MUCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(_PROGRAMS, "augment", "prints_much")
    return Program()


def test_a_program_goes_on_when_the_page_is_closed(printing_program, tmp_path):
    outputs = printing_program.run("augment", [str(tmp_path / "written")])
    next(outputs)
    outputs.close()
    wait_until((tmp_path / "written").exists)


def test_the_last_lines_of_a_program_are_shown(printing_program, tmp_path):
    *_, last = printing_program.run("augment", [str(tmp_path / "written")])
    lines = last.splitlines()
    assert len(lines) == LINES_SHOWN
    assert lines[-3:] == [f"line 2999 {'x' * 80}", "\ufffd", "finished"]


def test_two_users_who_press_at_once_start_one_program(printing_program, tmp_path):
    one, two = (printing_program.run("augment", [str(tmp_path / name)]) for name in ("one", "two"))
    assert next(one).startswith("$ simulsa-augment")
    assert [*two] == ["A program of this tab is running. Stop it first."]
    assert [*one][-1].endswith("finished")
    assert not (tmp_path / "two").exists()


@pytest.mark.browser
def test_the_page_is_filled_in_and_augments(tmp_path):
    """The real page: fields go into the extra arguments, and the tab makes a dataset."""
    write_demo_corpus(tmp_path / "data", rows=60)
    with running_board(tmp_path) as address, launched() as chromium:
        page = chromium.new_page()
        page.goto(address)
        page.get_by_role("button", name="SimulSA: simultaneous decoding").click(timeout=60_000)
        page.get_by_role("button", name="Extra configurations").click()
        extra = page.get_by_label("Extra arguments").first
        page.get_by_label("Test set").press_sequentially("demo_test")
        page.get_by_label("Chunks in ms").press_sequentially("500,1000")
        page.get_by_label("Rollbacks").press_sequentially("3")
        page.get_by_label("Rollbacks").fill("")
        expected = {"optim": "adamw_torch", "simulsa_eval_dataset": "demo_test", "simulsa_eval_chunks": "500,1000"}
        wait_until(lambda: json.loads(extra.input_value()) == expected)
        extra.fill("{")
        page.get_by_label("Test set").fill("other")
        page.wait_for_timeout(500)
        assert extra.input_value() == "{"  # not valid JSON, and not ours to throw away
        augment_demo(page)
    assert (tmp_path / "data_simulsa" / "demo_simulsa.jsonl").exists()

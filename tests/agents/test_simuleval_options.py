"""What SimulEval's options mean, told without SimulEval."""

import importlib.util
import subprocess
import sys

import pytest

from simulsa_plugin import agents
from simulsa_plugin.agents.simuleval_options import check_languages, check_unit, segment_warning
from simulsa_plugin.api.live_system import StreamPrompts
from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.model.values import Prompt


@pytest.mark.parametrize(("chunk_ms", "segment_ms"), [(500, 500), (500, 250), (500, 1), (500, None), (None, 300)])
def test_segments_at_whose_ends_steps_are_due_are_fine(chunk_ms, segment_ms):
    assert segment_warning(chunk_ms, segment_ms) is None


@pytest.mark.parametrize("segment_ms", [300, 1000, 501])
def test_segments_that_delay_steps_are_named(segment_ms):
    found = segment_warning(500, segment_ms)
    assert f"--source-segment-size is {segment_ms} ms, and steps are due every 500 ms" in found
    assert found.endswith("Set --source-segment-size 500.")


def test_units_must_be_the_same():
    check_unit("char", "char")
    check_unit("char", None)
    for ours, theirs in (("char", "word"), ("word", "char"), ("word", "spm")):
        with pytest.raises(
            UsageError, match=f"--eval-latency-unit is {theirs}, and the recipe's latency unit is {ours}"
        ):
            check_unit(ours, theirs)


def test_languages_are_checked_before_anything_is_decoded(tmp_path):
    prompts = StreamPrompts(None, "Into {target}.", "qwen2_audio", None, "de")
    languages = tmp_path / "languages.txt"
    languages.write_text("de\n\nfr\n")
    assert check_languages(prompts, None) is None
    assert check_languages(prompts, str(languages)) is None
    languages.write_text("de\nklingon!\n")
    with pytest.raises(UsageError, match="'klingon!', which is not a known code"):
        check_languages(prompts, str(languages))
    with pytest.raises(UsageError, match="Cannot read --tgt-lang"):
        check_languages(prompts, str(tmp_path / "none.txt"))


def test_a_prompt_that_names_no_language_is_told():
    fixed = StreamPrompts(Prompt(({"role": "user", "content": "<audio>"},)), None, "qwen2_audio", None, None)
    assert "--tgt-lang is not used" in check_languages(fixed, "languages.txt")


@pytest.mark.skipif(importlib.util.find_spec("simuleval") is not None, reason="SimulEval is installed")
def test_without_simuleval_the_agent_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps simuleval==1\.1\.4 textgrid tornado"):
        _ = agents.SimulEvalAgent


def test_the_package_of_agents_imports_no_tool():
    program = "import sys, simulsa_plugin.agents as a; assert not hasattr(a, 'x'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

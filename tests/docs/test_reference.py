"""The generated pages are what the code says now."""

import subprocess
import sys

from documents import REPOSITORY

from simulsa_plugin.llamafactory.plugin.recipe_keys import known_keys
from simulsa_plugin.metrics.corpus_scores import METRICS
from simulsa_plugin.streaming.catalogue import POLICIES


def test_the_generated_pages_are_up_to_date():
    script = REPOSITORY / "docs" / "generate_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_key_policy_and_metric():
    reference = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    names = [*known_keys(), *POLICIES, *(name for name in METRICS if "_CA" not in name)]
    assert [name for name in names if f"| `{name}` |" not in reference] == []


def test_a_key_with_two_defaults_says_which_is_for_which_command():
    sections = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8").split("\n### ")
    evaluation, training = (next(one for one in sections if one.startswith(title)) for title in ("Eval", "Decoding"))
    assert "For `simulsa-eval run`" in evaluation and "For `llamafactory-cli train`" in training
    (row,) = (line for line in evaluation.splitlines() if line.startswith("| `simulsa_eval_samples`"))
    assert row.endswith("Another default in [Decoding during training](#decoding-during-training): `100`. |")
    (row,) = (line for line in training.splitlines() if line.startswith("| `simulsa_eval_samples`"))
    assert row.endswith("Another default in [Evaluation](#evaluation): –. |")

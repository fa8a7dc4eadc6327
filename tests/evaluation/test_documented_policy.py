"""The custom policy that docs/policies.md shows does what it says."""

import json
import re
from pathlib import Path

from helpers.fakes import ClockModel, write_noise

from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.model.values import Prompt, Sample

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"


def test_the_documented_example_commits_whole_clauses(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(# my_policy\.py.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 15
    (tmp_path / "my_policy.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    prompt = Prompt(({"role": "user", "content": "<audio>Translate."},))
    rows = [Sample(0, prompt, "Ja, sie kommt. Gut", write_noise(tmp_path / "a.wav", 1.8))]
    settings = EvaluationSettings(policies=("my_policy.Clauses",), chunks=(500,))
    cells = run_evaluation(ClockModel(text="Ja, sie kommt. Gut"), "toy", rows, settings, tmp_path / "out")
    assert [cell["policy"] for cell in cells] == ["offline", "clauses"]
    steps = (tmp_path / "out" / "clauses_k500" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    # «Ja, s» after 500 ms, «Ja, sie ko» after 1000, «Ja, sie kommt. » after 1500, all after 1800: «Ja, » is the clause.
    assert [json.loads(step)["committed_tokens"] for step in steps] == [4, 4, 15, 18]

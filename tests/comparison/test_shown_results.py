"""What a page of several results tells about each of them."""

import json

from helpers.results import curve, write_result

from simulsa_plugin.comparison.shown_results import shown_results


def test_a_page_names_models_without_the_folders_of_this_machine(tmp_path):
    folder = write_result(tmp_path / "out", curve())
    scores = json.loads((folder / "scores.json").read_text())
    scores["model"] = {"model": "/home/me/saves/base", "adapter": ["/home/me/saves/lora"], "template": "qwen2_audio"}
    (folder / "scores.json").write_text(json.dumps(scores))
    (shown,) = shown_results([(folder, {}, {})])
    assert (shown.facts["model"], shown.facts["adapter"], shown.facts["template"]) == ("base", "lora", "qwen2_audio")
    scores["model"] |= {"model": "Qwen/Qwen2-Audio-7B", "adapter": None}
    (folder / "scores.json").write_text(json.dumps(scores))
    (shown,) = shown_results([(folder, {}, {})])
    assert shown.facts["model"] == "Qwen/Qwen2-Audio-7B"
    assert "adapter" not in shown.facts

"""Registered datasets on disk, for tests of how they are read."""

import json

from helpers.fakes import write_noise

from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.model.arguments import inference_arguments

ASK = "<audio>Translate."
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "call",
    "system_tag": "system",
}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "messages", "audios": "audios"}, "tags": TAGS}


def make_folder(tmp_path, monkeypatch, audios=3):
    """`data/` with wav/0.wav …, 1 s each; the working folder is the one above."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "wav").mkdir(parents=True)
    for number in range(audios):
        write_noise(tmp_path / "data" / "wav" / f"{number}.wav", 1.0, seed=number)
    return tmp_path / "data"


def register(folder, entries):
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turns(*contents, roles=("user", "assistant")):
    """`contents` in turn; a role may stand before its text, as (role, text)."""
    return [
        {"role": text[0], "content": text[1]}
        if isinstance(text, tuple)
        else {"role": roles[number % 2], "content": text}
        for number, text in enumerate(contents)
    ]


def load(folder, *names, **keys):
    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset_dir": str(folder)} | keys
    return load_datasets(inference_arguments(recipe), list(names))

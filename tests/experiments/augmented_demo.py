"""A tiny output folder of `simulsa-augment` on two utterances of the embedded corpus's kind, written by hand."""

import json
import os
from pathlib import Path

from helpers.fakes import write_noise
from helpers.forked_programs import run_program

from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import write_jsonl

REPOSITORY = Path(__file__).parents[2]
# What is said, its translation, what each German word needs, and when each English word ends.
UTTERANCES = (
    ("the man bought a car", "Der Mann hat ein Auto gekauft.", [2, 2, 3, 6, 6, 6], [0.2, 0.5, 0.8, 0.9, 1.4]),
    (
        "today the aunt must find the old lamp",
        "Heute muss die Tante die alte Lampe finden.",
        [1, 4, 4, 4, 8, 8, 8, 9],
        [0.3, 0.4, 0.7, 0.9, 1.2, 1.3, 1.5, 1.9],
    ),
)
DURATIONS = (1.5, 2.0)
SURE, LIKELY, UNSURE, WRONG = 0.0, -0.2, -2.5, -6.0  # log-probabilities: p = 1, .82, .08, .002


def scored(folder, row, number, cut_seconds, logprobs, accepted):
    """A row of scores.jsonl with a token for every word of the reference, and its clip."""
    _, german, _, _ = UTTERANCES[row]
    words = german.split()
    ends = [len(" ".join(words[: count + 1])) for count in range(len(words))]
    clip = write_noise(folder / "demo_simulsa" / "clips" / f"demo-{row:08d}-{number}.wav", cut_seconds, seed=number)
    return {
        "id": f"demo-{row:08d}-{number}",
        "audio": str(folder / "offline" / f"{row}.wav"),
        "clip": str(clip),
        "duration_seconds": DURATIONS[row],
        "cut_seconds": cut_seconds,
        "silence_seconds": [0.0, 0.0],
        "messages": [{"role": "user", "content": PROMPT}],
        "reference": german,
        "token_ids": list(range(len(words))),
        "char_ends": ends,
        "logprobs": logprobs,
        "greedy": list(range(len(words))),
        "unstable_prefixes": [],
        "accepted_tokens": accepted,
        "partial": " ".join(words[:accepted]),
    }


def write_augmented(folder, scores=None):
    """Write offline rows, truth, scores and dataset_info.json; `scores` makes the rows, by default a cut of each."""
    (folder / "offline").mkdir(parents=True)
    (folder / "demo_simulsa" / "clips").mkdir(parents=True)
    rows, truths = [], []
    for row, (english, german, needs, word_ends) in enumerate(UTTERANCES):
        audio = write_noise(folder / "offline" / f"{row}.wav", DURATIONS[row], seed=row)
        rows.append(
            {
                "messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": german}],
                "audios": [str(audio)],
            }
        )
        truths.append(
            {"audio": str(audio), "source": english, "target": german.split(), "needs": needs, "word_ends": word_ends}
        )
    write_jsonl(folder / "offline" / "demo.jsonl", rows)
    write_jsonl(folder / "offline" / "demo_truth.jsonl", truths)
    made = (
        scores(folder)
        if scores
        else [
            scored(folder, 0, 0, 0.85, [SURE, SURE, SURE, UNSURE, WRONG, WRONG], 3),
            scored(folder, 1, 0, 0.75, [SURE, LIKELY, LIKELY, WRONG, SURE, WRONG, WRONG, WRONG], 3),
        ]
    )
    write_jsonl(folder / "demo_simulsa" / "scores.jsonl", made)
    (folder / "demo_simulsa" / "manifest.json").write_text(json.dumps({"output_width": 768, "settings": {}}))
    (folder / "dataset_info.json").write_text(
        json.dumps({OFFLINE_NAME: {"file_name": str(folder / "offline" / "demo.jsonl"), **SHAREGPT_ENTRY}})
    )
    return Path(folder)


def train(recipe, dataset_dir, model):
    """Two steps of a recipe from the packaged checkpoint; returns what the trainer logged, the summary last."""
    result = run_program(
        "llamafactory-cli",
        "train",
        str(REPOSITORY / "recipes" / recipe),
        "model_name_or_path=simulsa-demo",
        f"dataset_dir={dataset_dir}",
        "max_steps=2",
        "logging_steps=1",
        "per_device_train_batch_size=2",
        "dataloader_num_workers=0",
        f"output_dir={model}",
        environment=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((model / "trainer_state.json").read_text())["log_history"]

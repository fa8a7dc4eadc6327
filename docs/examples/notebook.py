"""The Python API in a notebook: augment, evaluate, compare and tune on a small part of the embedded corpus.

Each `# %%` starts a cell in editors that know it; `jupytext --to ipynb` makes a notebook of the file. It takes 14 s of
processor time without a GPU, and writes into `notebook/`.
"""

# %% Data: a small part of the embedded corpus stands in for yours
from pathlib import Path

from simulsa_plugin import augment, compare, evaluate, score, tune
from simulsa_plugin.demo.corpus import write_demo_corpus

folder = Path("notebook")
write_demo_corpus(folder / "corpus", rows=40, test_rows=8, dev_rows=8)

recipe = {
    "model_name_or_path": "simulsa-demo",
    "template": "qwen2_audio",
    "dataset": "demo",
    "eval_dataset": "demo_test",
    "dataset_dir": folder / "corpus",
    "simulsa_unit": "word",
    "simulsa_tokenizer": "13a",
}

# %% Augment: partial samples, and how much of each reference the model accepts
augmented = augment(recipe, out=folder / "data", simulsa_samples=20)
samples = augmented.to_frame()
print(samples[["cut_seconds", "duration_seconds", "partial", "reference"]].head())
print(augmented.counts["demo"])

# %% Train with `llamafactory-cli train`, then evaluate; here the model as it is, with two policies
keys = {"simulsa_chunks": [500, 1000], "simulsa_max_new_tokens": 32}
baseline = evaluate(recipe, out=folder / "rollback", simulsa_policies=["rollback"], simulsa_rollbacks=[0, 3], **keys)
other = evaluate(
    recipe, out=folder / "confidence", simulsa_policies=["confidence"], simulsa_confidence_threshold=[0.5, 0.9], **keys
)
print(baseline.to_frame()[["policy", "chunk_ms", "rollback", "BLEU", "LAAL", "instances"]])
baseline.figure().savefig(folder / "rollback.png")

# %% Score one of the logs on its own
log = baseline.out / baseline.cells[1]["folder"] / "instances.log"
print(score(log, intervals=True).to_frame().set_index("metric").loc[["BLEU", "LAAL"]])

# %% Compare: quality at equal latency, with intervals
comparison = compare(baseline, other)
print(comparison.verdict)
comparison.figure().savefig(folder / "comparison.png")

# %% Tune: the best cell within a latency budget on a dev set
tuned = tune(
    recipe,
    budgets=[1000, 1500],
    out=folder / "tuned",
    simulsa_dev_dataset="demo_dev",
    simulsa_policies=["rollback"],
    simulsa_rollbacks=[0, 3],
    **keys,
)
print(tuned.chosen)
result = evaluate(tuned.recipe, out=folder / "test")
print(result.to_frame()[["policy", "chunk_ms", "rollback", "BLEU", "LAAL"]])

"""Perfect labels: the partial translation of every cut replaced by the true one.

Self-speculation commits too much in about half of the cuts of the embedded corpus. Training on true labels is an upper
bound for all acceptance rules, if labels limit the method.
"""

from __future__ import annotations

from simulsa_plugin.augmentation.labeling import training_row
from simulsa_plugin.experiments.variants_data import AUGMENTED_NAME, Augmented, Dataset, sharegpt


def true_labels(data: Augmented) -> dict[str, Dataset]:
    """Make the rows of `demo_simulsa` with true partials, in the order of scores.jsonl; empty ones are kept."""
    return {AUGMENTED_NAME: sharegpt([training_row({**row, "partial": data.true_partial(row)}) for row in data.scores])}

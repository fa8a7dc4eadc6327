"""Raw speech translation corpora to LLaMA-Factory rows: read → cut → write → register."""

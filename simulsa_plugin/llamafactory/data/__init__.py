"""LLaMA-Factory's datasets: rows, prompts, labels applied at load time, overlap of test and training sets."""

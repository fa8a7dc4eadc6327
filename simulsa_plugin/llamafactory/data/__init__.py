"""LLaMA-Factory's datasets: rows, prompts, labels decided at load time, test sets that are trained on."""

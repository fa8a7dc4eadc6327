"""Comparing results: differences per cell, quality at equal latency, tuned systems at latency budgets."""

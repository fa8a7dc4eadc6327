"""Choosing settings on a dev set within latency budgets."""

"""Runs, logs, tables and comparisons."""

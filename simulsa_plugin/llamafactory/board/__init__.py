"""The plugin in LLaMA Board, LLaMA-Factory's web UI: its keys in the tab Train, and a tab with its commands."""

"""Experiments over seeds and settings, which run the public commands."""

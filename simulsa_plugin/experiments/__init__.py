"""Experiments over seeds and settings, made of the commands a user would type."""

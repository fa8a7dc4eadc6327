"""Readers of raw corpora, one module for each format."""

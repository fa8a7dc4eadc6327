"""The embedded default: spoken corpus, small checkpoint, and the script that trained it."""

"""Integration into LLaMA-Factory: autoload, extensions, recipe keys, checks before a launch."""

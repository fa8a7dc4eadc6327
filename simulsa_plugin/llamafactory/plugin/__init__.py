"""How the plugin gets into LLaMA-Factory: autoload, recipe keys, checks before a launch."""

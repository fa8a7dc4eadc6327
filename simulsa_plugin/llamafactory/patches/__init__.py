"""Faults of LLaMA-Factory and transformers that are repaired at import; a module can go when upstream is fixed."""

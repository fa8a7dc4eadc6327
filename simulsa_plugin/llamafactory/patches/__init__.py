"""Workarounds for bugs of LLaMA-Factory, transformers and torchaudio; each module says when it can be deleted."""

"""Everything that touches LLaMA-Factory, transformers and their models; no other part imports them."""

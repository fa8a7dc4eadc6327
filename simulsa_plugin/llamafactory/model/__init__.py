"""Any LLaMA-Factory audio model as `model.protocol.AudioLanguageModel`: loading, scoring, batched decoding."""

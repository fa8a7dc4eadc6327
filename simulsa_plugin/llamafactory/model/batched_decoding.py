"""Batched greedy decoding with shared prompts, token trees of prefixes and drafts, and shared continuations.

One pass takes every distinct prompt once, followed by the forced prefixes and the drafts of all requests about it as a
tree of tokens (a draft is what the previous output had after the prefix). A token of the tree is accepted as long as it
is the argmax, whichever request it comes from, and decoding goes on from the first difference. The result equals
decoding one request at a time: lossless, as in speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with
greedy acceptance. What all prompts have before their audio is prefilled once for all.

Requests about one prompt that differ in when they stop, as those of several policies do, have the same tokens up to
there: they share a row of the cache as long as they are at the same token.

`PromptPass` is the first pass, `DecodeRows` the steps after it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model.attention import AttentionRecord, AudioAttention
from simulsa_plugin.llamafactory.model.audio_encoder import AudioAdapter
from simulsa_plugin.llamafactory.model.decode_rows import DecodeRows
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.generation import EncodedPrompt, Generation, Prediction
from simulsa_plugin.llamafactory.model.kv_cache import bytes_per_token, logits_bytes
from simulsa_plugin.llamafactory.model.out_of_memory import is_out_of_memory
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.prompt_pass import PromptPass, PromptPrefix
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.llamafactory.model.static_step import CaptureError, StaticSteps, why_not_captured
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.model.values import Continuation, GenerationRequest

LOGITS_AT_ONCE = 128  # positions whose logits are computed together; each has V of them
DENSE_ATTENTION = ("sdpa", "eager")  # implementations that take a mask of any form


class SharedPromptDecoder:
    """Encodes prompts and generates answers for models with an `AudioAdapter`.

    Args:
        model: transformers' model, without its LoRA wrapper, with a `config.audio_token_id`.
        adapter: of that model.
        special: tokens of the template.
        attention: of `adapter.decoder`.
    """

    def __init__(self, model: Any, adapter: AudioAdapter, special: SpecialTokens, attention: AudioAttention) -> None:
        self._adapter, self.special, self.attention = adapter, special, attention
        self._decoder, self._head = adapter.decoder, model.get_output_embeddings()
        self._embed = model.get_input_embeddings()
        self._device = execution_device(self._embed)
        self._audio_token = int(model.config.audio_token_id)
        self._suppressed = torch.tensor(special.suppressed, dtype=torch.long, device=execution_device(self._head))
        element_size = self._embed.weight.element_size()
        self.bytes_per_token = bytes_per_token(self._decoder.config, element_size)
        self.bytes_per_session = logits_bytes(model.config.get_text_config(decoder=True), element_size)
        self.static: StaticSteps | None = None  # for decode steps, where they are captured

    def why_not_captured(self) -> str | None:
        """Return why decode steps cannot be CUDA graphs; None where they can."""
        return why_not_captured(self._decoder)

    def use_static_steps(self, memory_bytes: float, *, captures: bool) -> None:
        """Decode on static buffers from now on.

        Args:
            memory_bytes: of keys and values in all; half of it is for the static buffers.
            captures: whether steps become CUDA graphs.
        """
        self.bytes_per_token = 2 * bytes_per_token(self._decoder.config, self._embed.weight.element_size())
        self.static = StaticSteps(self, memory_bytes / 2, captures=captures)

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[EncodedPrompt]:
        """Encode audio in one batch, and put its embeddings in the place of the prompts' audio tokens.

        Raises:
            ModelError: a prompt has another number of audio tokens than the encoder gives.
        """
        return [
            self._merge_audio(prompt, audio)
            for prompt, audio in zip(prompts, self._adapter.embed(waveforms), strict=True)
        ]

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return the approximate peak memory of `encode_prompts` for one batch of waveforms of these lengths."""
        return self._adapter.encoding_bytes(num_samples)

    def _merge_audio(self, prompt: Sequence[int], audio: torch.Tensor) -> EncodedPrompt:
        ids = torch.tensor(prompt, device=self._device)
        is_audio = ids == self._audio_token
        if int(is_audio.sum()) != len(audio):
            raise ModelError(f"a prompt has {int(is_audio.sum())} audio tokens for {len(audio)} of the encoder")
        embeddings: torch.Tensor = self._embed(ids).clone()
        embeddings[is_audio] = audio.to(embeddings.device, embeddings.dtype)
        return EncodedPrompt(embeddings, is_audio, tuple(itertools.takewhile(self._audio_token.__ne__, prompt)))

    def generate(self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Generate the answer of each request about the prompt of the same index; prompts may repeat."""
        try:
            return self._generate(prompts, requests)
        except (RuntimeError, MemoryError) as error:
            if self.static is None or not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
            reason = str(error).split(". ")[0].rstrip(".")
        # Outside the handler, whose traceback keeps the tensors of the failed pass.
        self.static = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        notify(f"decoding goes on without CUDA graphs: {reason}. simulsa_cuda_graphs=false does so from the start.")
        return self._generate(prompts, requests)

    def _generate(self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        generations = [Generation(*pair) for pair in zip(prompts, requests, strict=True)]
        self.decode(generations, DecodeRows(self), PromptPrefix(self))
        return [generation.continuation() for generation in generations]

    def decode(self, new: Sequence[Generation], rows: DecodeRows, prefix: PromptPrefix, unfinished: int = 0) -> None:
        """Begin requests in rows that others may have, and decode until no more than a number of all have not ended.

        Args:
            new: requests that begin; if one needs attention to be recorded, `rows` are empty and none is left.
            rows: of the cache.
            prefix: what prompts begin with.
            unfinished: how many may be left.
        """
        with self._dense_attention(), contextlib.ExitStack() as stack:
            if new:
                prompts = PromptPass(self, new)
                prompts.prefill_shared(prefix)
                needs_attention = any(one.request.min_audio_ahead is not None for one in new)
                attention = stack.enter_context(self.attention.recording(prompts.audio)) if needs_attention else None
                rows.join(prompts.run(attention), attention)
            while rows.unfinished > unfinished:
                rows.step()

    @contextlib.contextmanager
    def _dense_attention(self) -> Iterator[None]:
        """Let a model use PyTorch's attention inside this context, if its own takes no dense mask (FlashAttention)."""
        config = self._decoder.config
        before = config._attn_implementation
        if before not in DENSE_ATTENTION:
            config._attn_implementation = DENSE_ATTENTION[0]
        try:
            yield
        finally:
            config._attn_implementation = before

    def run(
        self, embeddings: torch.Tensor, visible: torch.Tensor, position_ids: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Return `hidden_states` of tokens that attend to `visible` columns, (rows, tokens, columns of the cache)."""
        return self.hidden_states(embeddings, self.dense_mask(visible, embeddings.dtype), position_ids, cache)

    def predictions(
        self, hidden: torch.Tensor, positions: Sequence[tuple[int, int]], attention: AttentionRecord | None
    ) -> Iterator[Prediction]:
        """Yield the predictions at (row, position) of a pass.

        Args:
            hidden: output of the pass, (rows, tokens, width).
            positions: row and position of each prediction.
            attention: that was recorded in the pass; None predicts as if all audio were ahead.
        """
        index = tuple(torch.tensor(positions, device=hidden.device).T)
        tokens = self.greedy_tokens(hidden[index])
        if attention is None:
            return ((*token, 1.0) for token in tokens)
        shares = attention.audio_ahead()[index].tolist()
        return ((*token, share) for token, share in zip(tokens, shares, strict=True))

    def hidden_states(
        self, embeddings: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Run the language model once, (rows, tokens, width) to the same shape; the cache grows by `tokens`.

        A model that is spread over several devices ends on another one than it begins on, and each layer's cache is
        where the layer is.

        Args:
            embeddings: (rows, tokens, width).
            mask: (rows, 1, tokens, columns of the cache with these tokens), see `dense_mask`.
            position_ids: (rows, tokens).
            cache: keys and values of what came before.
        """
        hidden: torch.Tensor = self._decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden.to(embeddings.device)

    def dense_mask(self, visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a mask to be added to scores of this dtype, (rows, 1, tokens, columns); transformers passes it on.

        Args:
            visible: (rows, tokens, columns of the cache), True where a token attends to a column.
            dtype: of embeddings.
        """
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def greedy_tokens(self, hidden: torch.Tensor) -> Iterator[tuple[int, float]]:
        """Yield the most probable token, except suppressed ones, and its probability for each of (positions, width)."""
        for part in torch.split(hidden, LOGITS_AT_ONCE):
            tokens, probabilities = self.most_probable(part)
            yield from zip(tokens.tolist(), probabilities.tolist(), strict=True)

    def most_probable(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `greedy_tokens` yields as tensors, (positions,) each."""
        with fp32_product(self._head):
            logits = self._head(hidden).float()
        total = logits.logsumexp(-1)
        best, tokens = logits.index_fill_(1, self._suppressed.to(logits.device), -torch.inf).max(-1)
        return tokens, torch.exp(best - total)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of text tokens."""
        embeddings: torch.Tensor = self._embed(token_ids)
        return embeddings

"""Any LLaMA-Factory audio model as `simulsa_plugin.model.protocol.AudioLanguageModel`.

Inputs are built by LLaMA-Factory's template, multimodal plugin and collator, so scoring and decoding use the inputs of
training, for every architecture that LLaMA-Factory trains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
from simulsa_plugin.llamafactory.model.attention import AudioAttention, concordance, select_alignment_heads
from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder
from simulsa_plugin.llamafactory.model.continuous_batch import ContinuousBatch
from simulsa_plugin.llamafactory.model.counted_prompts import CountingRenderer
from simulsa_plugin.llamafactory.model.devices import execution_device, parameters_with_values
from simulsa_plugin.llamafactory.model.machine import processor_name
from simulsa_plugin.llamafactory.model.out_of_memory import in_halves, is_out_of_memory
from simulsa_plugin.llamafactory.model.output_layer import check_logits, fp32_product, output_width
from simulsa_plugin.llamafactory.model.plain_decoding import PlainDecoder
from simulsa_plugin.llamafactory.model.reference_scoring import (
    Positions,
    ScoringInputs,
    answer_positions,
    only_positions,
    reference_scores,
)
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.llamafactory.patches.position_ids import is_feature
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.model.open_batch import OpenBatch, SeparateBatches
from simulsa_plugin.model.values import (
    AttentionHead,
    Continuation,
    GenerationRequest,
    ReferenceScores,
    RenderedReference,
)

IGNORE = -100
FINGERPRINT_VALUES = 8
CALIBRATION_TOKENS = 128  # of an answer, to find the attention heads that follow the audio


class Backbone(CountingRenderer):
    """A loaded model with its template and processor.

    Args:
        model: LLaMA-Factory's.
        renderer: of that model.
        adapts: False uses transformers' own code alone, as a reference.
    """

    def __init__(self, model: Any, renderer: TemplateRenderer, *, adapts: bool = True) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        super().__init__(renderer, base, adapts=adapts)
        self.model = model
        self.output_width = output_width(model)
        self._device = execution_device(model.get_input_embeddings())
        special = SpecialTokens(
            frozenset(self.template.get_stop_token_ids(self.tokenizer)),
            self._media_tokens(),
            self.tokenizer.pad_token_id,
        )
        self._attention = AudioAttention(self._adapter.decoder if self._adapter else base.get_decoder())
        self.plain_decoder = PlainDecoder(
            model, self._collate_left, special, self._accept_trimmed, self._attention, self._audio_token
        )
        self.decoder: PlainDecoder | SharedPromptDecoder = (
            SharedPromptDecoder(base, self._adapter, special, self._attention)
            if self._adapter and self._attention.is_full
            else self.plain_decoder
        )
        self.bytes_per_token, self.bytes_per_session = self.decoder.bytes_per_token, self.decoder.bytes_per_session
        self.encoding_bytes = self.decoder.encoding_bytes
        self._split_notified = False
        self._collating = threading.Lock()  # the feature extractor and the tokenizer change while they are used

    def use_cuda_graphs(self, memory_bytes: float) -> bool:
        """Decode with CUDA graphs where the model and its device allow it, see `static_step`; return whether they do.

        Args:
            memory_bytes: of keys and values in all, as `BatchLimits.memory_bytes`.
        """
        if not isinstance(self.decoder, SharedPromptDecoder) or self.decoder.why_not_captured() is not None:
            return False
        self.use_static_steps(memory_bytes, captures=True)
        return True

    def use_static_steps(self, memory_bytes: float, *, captures: bool) -> None:
        """Decode on static buffers, as `SharedPromptDecoder.use_static_steps`, which this model must have."""
        assert isinstance(self.decoder, SharedPromptDecoder)
        self.decoder.use_static_steps(memory_bytes, captures=captures)
        self.bytes_per_token = self.decoder.bytes_per_token

    def describe(self) -> dict[str, Any]:
        """Return model, adapter, template, weights, dtype and device, for manifests."""
        return {
            **self.description,
            "weights": self._fingerprint(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self._device.type,
        }

    def hardware(self) -> dict[str, Any]:
        """Return the name of the accelerator or processor, threads, and the dtype of the weights."""
        on_gpu = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if on_gpu else processor_name(),
            "threads": torch.get_num_threads(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def _fingerprint(self) -> str:
        """Hash a few values of every weight, so that a checkpoint retrained under its old name is recognised."""
        digest = hashlib.sha256()
        for name, weight in parameters_with_values(self.model):
            few = weight.reshape(-1)[:FINGERPRINT_VALUES].float().cpu()
            digest.update(name.encode() + few.numpy().tobytes())
        return digest.hexdigest()[:12]

    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Score references about waveforms by teacher forcing in one forward pass, right-padded as in training.

        A batch that does not fit into memory is scored in halves: in fp32 that may change the last digits, in half
        precision more.

        Raises:
            ModelError: a single reference does not fit into memory.
        """
        return self.score_prepared(self.prepare(rendered, waveforms))

    def prepare(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> ScoringInputs:
        """Extract features and collate a batch for `score_prepared`, which may run on another thread meanwhile.

        Raises:
            ModelError: the batch does not fit into the host's memory.
        """
        rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
        with _fitting(
            f"A batch of {len(rows)} clips does not fit into the host's memory. Lower simulsa_batch_tokens, and choose "
            "another --out."
        ):
            tensors = self._collate_on_host(rows, waveforms, padding_side="right")
            if self._device.type == "cuda":  # copied while the model computes, and not before the next kernel
                tensors = {
                    key: value.pin_memory() if isinstance(value, torch.Tensor) else value
                    for key, value in tensors.items()
                }
        return ScoringInputs(rendered, waveforms, tensors)

    @torch.inference_mode()
    def score_prepared(self, inputs: ScoringInputs) -> list[ReferenceScores]:
        """Score references that are ready for the model; see `score`. Raises ModelError likewise."""

        def score(rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
            is_whole = len(rendered) == len(inputs.rendered)
            return self._score_batch(inputs if is_whole else self.prepare(rendered, waveforms))

        def notify_split(rows: int) -> None:
            self._notify_once(
                f"a batch of {rows} clips does not fit into memory and is scored in halves, which takes longer. "
                "Lower simulsa_batch_tokens."
            )

        with _fitting("A single clip does not fit into memory. Take a larger accelerator, or quantization_bit."):
            return in_halves(score, inputs.rendered, inputs.waveforms, on_split=notify_split)

    def _score_batch(self, inputs: ScoringInputs) -> list[ReferenceScores]:
        batch = {key: self._to_device(key, value) for key, value in inputs.tensors.items()}
        logits = self._forward(batch, answer_positions(inputs.rendered))
        check_logits(logits.shape[-1], self.output_width)
        return reference_scores(logits, inputs.rendered, self._eos_id())

    def _forward(self, batch: dict[str, Any], positions: Positions) -> torch.Tensor:
        """Return logits (positions, V) of the positions that are named; the others are not computed."""
        head = self.model.get_output_embeddings()
        with self._accept_trimmed(batch), fp32_product(head), only_positions(head, positions):
            logits: torch.Tensor = self.model(**batch, use_cache=False).logits
        return logits

    def _accept_trimmed(self, batch: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Let the model accept batches that the adapter has trimmed inside this context."""
        return self._adapter.accept_trimmed(batch) if self._adapter else contextlib.nullcontext()

    def _eos_id(self) -> int:
        return int(self._answer_end[0] if self._answer_end else self.tokenizer.eos_token_id)

    def _media_tokens(self) -> tuple[int, ...]:
        """Return the ids of placeholders of audio, images and videos, and of their delimiters.

        They are meaningless in an answer; in a forced prefix they would need another audio.
        """
        plugin = self.template.mm_plugin
        names = {getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.name.endswith("_token")}
        known = self.tokenizer.get_vocab()
        return tuple(sorted(known[name] for name in names if name in known))

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[Any]:
        """Encode prompts with the audio received so far.

        Raises:
            ModelError: a prompt does not match its audio, or a single one does not fit into memory.
        """
        return self._in_halves(self.decoder.encode_prompts, prompts, waveforms)

    def generate(self, prompts: Sequence[Any], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Generate one answer greedily for each prompt of `encode_prompts`, in one batch.

        Raises:
            ModelError: a single session does not fit into memory.
        """
        return self._in_halves(self.decoder.generate, prompts, requests)

    def open_batch(self) -> OpenBatch:
        """Return an empty batch that requests can join while others go on."""
        if isinstance(self.decoder, SharedPromptDecoder):
            return ContinuousBatch(self.decoder, self.generate)
        return SeparateBatches(self)

    def set_alignment_heads(self, heads: Sequence[AttentionHead]) -> None:
        """Use these attention heads for `GenerationRequest.min_audio_ahead`.

        Raises:
            UsageError: a head does not exist.
            ModelError: the model does not use transformers' attention functions.
        """
        self._attention.set_heads(heads)

    @torch.inference_mode()
    def find_alignment_heads(
        self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]
    ) -> tuple[AttentionHead, ...]:
        """Find the heads that follow the audio best while the model generates; references are not needed.

        Raises:
            ModelError: as `set_alignment_heads`.
        """
        heads = self._attention.all_heads()
        requests = [GenerationRequest(max_new_tokens=CALIBRATION_TOKENS)] * len(prompts)
        answers = self.generate(self.encode_prompts(prompts, waveforms), requests)
        scores = torch.zeros(len(heads))
        for prompt, waveform, answer in zip(prompts, waveforms, answers, strict=True):
            if len(answer.token_ids) > 1:
                scores += self._concordance([*prompt], [*answer.token_ids], waveform, heads)
        return select_alignment_heads(dict(zip(heads, scores.tolist(), strict=True)))

    def _concordance(
        self, prompt: list[int], answer: list[int], waveform: Waveform, heads: Sequence[AttentionHead]
    ) -> torch.Tensor:
        """Return `attention.concordance` of each head, (heads,), over the tokens of a generated answer."""
        batch = self._collate([[*prompt, *answer[:-1]]], [waveform], padding_side="right")
        with self._attention.recording(batch["input_ids"] == self._audio_token, heads) as record:
            self._forward(batch, (torch.zeros(1, dtype=torch.long), torch.tensor([len(prompt) - 1])))
            audio_ahead = record.audio_ahead_by_head()[0]
        first = len(prompt) - 1  # the position that predicts the answer's first token
        return concordance(1 - audio_ahead[:, first : first + len(answer)]).cpu()

    @torch.inference_mode()
    def _in_halves(self, process: Callable[..., Sequence[Any]], *columns: Sequence[Any]) -> list[Any]:
        """Process a batch, in halves where it does not fit into memory; in fp32 results do not depend on the batch."""

        def notify_split(rows: int) -> None:
            self._notify_once(
                f"a batch of {rows} sessions does not fit into memory and is decoded in halves, which takes longer. "
                "Lower simulsa_eval_memory_gb or simulsa_eval_batch_size."
            )

        with _fitting("A single session does not fit into memory. Take a larger accelerator, or quantization_bit."):
            return in_halves(process, *columns, on_split=notify_split)

    def _notify_once(self, message: str) -> None:
        if not self._split_notified:
            notify(message)
        self._split_notified = True

    def _collate(self, rows: list[list[int]], waveforms: Sequence[Waveform], *, padding_side: str) -> dict[str, Any]:
        """Collate (token ids, one waveform each) with LLaMA-Factory's collator, on the model's device."""
        batch = self._collate_on_host(rows, waveforms, padding_side=padding_side)
        return {key: self._to_device(key, value) for key, value in batch.items()}

    def _collate_on_host(
        self, rows: list[list[int]], waveforms: Sequence[Waveform], *, padding_side: str
    ) -> dict[str, Any]:
        from llamafactory.data import MultiModalDataCollatorForSeq2Seq

        features = [
            {
                "input_ids": list(row),
                "attention_mask": [1] * len(row),
                "labels": [IGNORE] * len(row),
                "images": None,
                "videos": None,
                "audios": [waveform],
            }
            for row, waveform in zip(rows, waveforms, strict=True)
        ]
        with self._collating, self._padding_on(padding_side):
            collator = MultiModalDataCollatorForSeq2Seq(
                template=self.template,
                model=self.model,
                tokenizer=self.tokenizer,
                processor=self.processor,
                label_pad_token_id=IGNORE,
                pad_to_multiple_of=None,
            )
            with self._adapter.batch_window(waveforms) if self._adapter else contextlib.nullcontext():
                batch = dict(collator(features))
        batch.pop("labels")
        return self._adapter.trim(batch) if self._adapter else batch

    @contextlib.contextmanager
    def _padding_on(self, side: str) -> Iterator[None]:
        before, self.tokenizer.padding_side = self.tokenizer.padding_side, side
        try:
            yield
        finally:
            self.tokenizer.padding_side = before

    def _collate_left(self, rows: list[list[int]], waveforms: Sequence[Waveform]) -> dict[str, Any]:
        return self._collate(rows, waveforms, padding_side="left")

    def _to_device(self, key: str, value: Any) -> Any:
        """Move a model input to its device; features get the model's dtype, positions keep theirs."""
        if not isinstance(value, torch.Tensor):
            return value
        value = value.to(self._device, non_blocking=True)
        return value.to(self.model.dtype) if value.is_floating_point() and is_feature(key) else value


@contextlib.contextmanager
def _fitting(message: str) -> Iterator[None]:
    """Raise ModelError with a message where something does not fit into memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(message) from error

"""Any LLaMA-Factory audio model behind `simulsa_plugin.model.protocol.AudioLanguageModel`.

Inputs are built by LLaMA-Factory's own template, multimodal plugin and collator: what is scored and decoded is what
training sees, for every architecture that it trains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.rendering import LOADING_ERRORS, TemplateRenderer, cannot_load, load_renderer
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.model.attention import AudioAttention, concordance, following_heads
from simulsa_plugin.llamafactory.model.audio_encoder import adapter_for
from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder
from simulsa_plugin.llamafactory.model.devices import (
    CACHE_BYTES,
    WAY_OUT,
    does_not_fit,
    execution_device,
    kept_weights,
    placed,
    stored_parameters,
)
from simulsa_plugin.llamafactory.model.features import shorten_extraction
from simulsa_plugin.llamafactory.model.out_of_memory import in_halves, is_out_of_memory
from simulsa_plugin.llamafactory.model.output_layer import check_logits, fp32_product, output_width
from simulsa_plugin.llamafactory.model.plain_decoding import PlainDecoder
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.llamafactory.patches.batch_invariance import free_of_company
from simulsa_plugin.llamafactory.patches.position_ids import is_feature
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.model.values import (
    AttentionHead,
    Continuation,
    GenerationRequest,
    Prompt,
    ReferenceScores,
    RenderedReference,
)

IGNORE = -100
AUDIO_PLACEHOLDER = "<audio>"
FINGERPRINT_VALUES = 8
CALIBRATION_TOKENS = 128  # of an answer, to see which attention heads follow the audio


class Backbone(TemplateRenderer):
    """A loaded model with its template and processor.

    Args:
        model: LLaMA-Factory's.
        renderer: of that model.
        adapts: False leaves transformers' own path to everything, to compare with.
    """

    def __init__(self, model: Any, renderer: TemplateRenderer, *, adapts: bool = True) -> None:
        super().__init__(renderer.tokenizer, renderer.processor, renderer.template, renderer.description)
        self.model = model
        self.output_width = output_width(model)
        self._device = execution_device(model.get_input_embeddings())
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if adapts:
            shorten_extraction(self.processor)
        self._adapter = adapter_for(base, self.processor) if adapts else None
        # PEFT's own forward names no such parameter, and hands it on.
        self._forward_parameters = inspect.signature(base.forward).parameters
        self._audio_token = int(getattr(base.config, "audio_token_id", None) or 0)
        self._wordings: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        special = SpecialTokens(
            frozenset(self.template.get_stop_token_ids(self.tokenizer)),
            self._media_tokens(),
            self.tokenizer.pad_token_id,
        )
        self._attention = AudioAttention(self._adapter.decoder if self._adapter else base.get_decoder())
        self.plain_decoder = PlainDecoder(
            model, self._collate_left, special, self._short_window, self._attention, self._audio_token
        )
        self.decoder: PlainDecoder | SharedPromptDecoder = (
            SharedPromptDecoder(base, self._adapter, special, self._attention) if self._adapter else self.plain_decoder
        )
        self.bytes_per_token = self.decoder.bytes_per_token
        self.encoding_bytes = self.decoder.encoding_bytes
        self._has_split = False

    def describe(self) -> dict[str, Any]:
        """Model, adapter, template, weights, dtype and device, for manifests."""
        return {
            **self.description,
            "weights": self._fingerprint(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self._device.type,
        }

    def hardware(self) -> dict[str, Any]:
        """Name of the accelerator or processor, threads, and the number format of the weights."""
        on_gpu = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if on_gpu else _processor_name(),
            "threads": torch.get_num_threads(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def _fingerprint(self) -> str:
        """A hash of a few values of every weight: a checkpoint trained again under its old name is another one."""
        digest = hashlib.sha256()
        for name, weight in stored_parameters(self.model):
            few = weight.reshape(-1)[:FINGERPRINT_VALUES].float().cpu()
            digest.update(name.encode() + few.numpy().tobytes())
        return digest.hexdigest()[:12]

    @torch.inference_mode()
    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Teacher-forced scores of references about waveforms, one forward pass, right-padded as in training.

        Raises:
            ModelError: the batch does not fit into memory. It is not split: batches decide the last digits of a score,
                and a run that is started again ends with the same bytes.
        """
        rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
        first = min(len(one.prompt_ids) for one in rendered) - 1
        try:
            batch = self._collate(rows, waveforms, padding_side="right")
            logits = self._forward(batch, first)
            check_logits(logits.shape[-1], self.output_width)
            return [
                self._scores(logits[index, len(one.prompt_ids) - 1 - first :], one)
                for index, one in enumerate(rendered)
            ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            step = (
                "Lower simulsa_batch_size, and choose another --out: the folder keeps to its batches."
                if len(rows) > 1
                else "Take a larger accelerator, or quantization_bit."
            )
            raise ModelError(
                f"A batch of {len(rows)} clips with up to {max(map(len, rows))} tokens does not fit into memory. {step}"
            ) from error

    def _forward(self, batch: dict[str, Any], first: int) -> torch.Tensor:
        """Logits (batch, positions from `first`, V); the output layer skips earlier positions where the model can."""
        width = batch["input_ids"].shape[1]
        logits: torch.Tensor
        with self._short_window(batch), fp32_product(self.model.get_output_embeddings()):
            if "logits_to_keep" in self._forward_parameters:
                logits = self.model(**batch, use_cache=False, logits_to_keep=width - first).logits
            else:
                logits = self.model(**batch, use_cache=False).logits[:, first:]
        return logits

    def _short_window(self, batch: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """While this lasts, the model takes batches that the adapter has shortened."""
        return self._adapter.short_window(batch) if self._adapter else contextlib.nullcontext()

    def _scores(self, logits: torch.Tensor, rendered: RenderedReference) -> ReferenceScores:
        """From logits (positions, V), the first of which predicts the first content token."""
        length = len(rendered.content_ids)
        logprobs = torch.log_softmax(logits[: length + 1].float(), dim=-1)
        targets = torch.tensor([*rendered.content_ids, self._eos_id()], device=logprobs.device)
        chosen = logprobs.gather(1, targets[:, None])[:, 0]
        greedy = logprobs[:length].argmax(-1)
        (best, second) = logprobs[:length].topk(2).values.unbind(-1)
        margins = chosen[:-1] - torch.where(greedy == targets[:-1], second, best)
        return ReferenceScores(
            tuple(chosen[:-1].tolist()), tuple(greedy.tolist()), tuple(margins.tolist()), chosen[-1].item()
        )

    def _eos_id(self) -> int:
        return int(self._answer_end[0] if self._answer_end else self.tokenizer.eos_token_id)

    def _media_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for audio, images and videos, or around them.

        In an answer they mean nothing; forced into the next prompt they would ask for another audio.
        """
        plugin = self.template.mm_plugin
        names = {getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.name.endswith("_token")}
        known = self.tokenizer.get_vocab()
        return tuple(sorted(known[name] for name in names if name in known))

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """As the renderer does; where an adapter counts audio tokens, the template is asked once for each wording.

        Raises:
            ModelError: the template or the processor refuses the prompt.
        """
        if self._adapter is None:
            return super().render_prompt(prompt, waveform)
        wording = repr(prompt)
        if wording not in self._wordings:
            self._wordings[wording] = self._around_audio(super().render_prompt(prompt, waveform))
        head, tail = self._wordings[wording]
        return (*head, *[self._audio_token] * self._adapter.num_tokens(len(waveform)), *tail)

    def _around_audio(self, prompt_ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        first = prompt_ids.index(self._audio_token)
        last = len(prompt_ids) - prompt_ids[::-1].index(self._audio_token)
        return prompt_ids[:first], prompt_ids[last:]

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[Any]:
        """What the model makes of prompts and of the audio heard so far.

        Raises:
            ModelError: a prompt and its audio do not fit each other, or a single one does not fit into memory.
        """
        return self._in_halves(self.decoder.encode_prompts, prompts, waveforms)

    def generate(self, prompts: Sequence[Any], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Greedily continue one answer about each of the prompts of `read`, in one batch.

        Raises:
            ModelError: a single session does not fit into memory.
        """
        return self._in_halves(self.decoder.generate, prompts, requests)

    def set_alignment_heads(self, heads: Sequence[AttentionHead]) -> None:
        """Take these attention heads for `GenerationRequest.min_audio_ahead`.

        Raises:
            UsageError: the model has no such head.
            ModelError: transformers does not compute its attention.
        """
        self._attention.choose(heads)

    @torch.inference_mode()
    def find_alignment_heads(
        self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]
    ) -> tuple[AttentionHead, ...]:
        """The heads that follow the audio best while the model says its own answers; no reference is needed.

        Raises:
            ModelError: as `choose_alignment_heads`.
        """
        heads = self._attention.all_heads()
        requests = [GenerationRequest(max_new_tokens=CALIBRATION_TOKENS)] * len(prompts)
        answers = self.generate(self.encode_prompts(prompts, waveforms), requests)
        scores = torch.zeros(len(heads))
        for prompt, waveform, answer in zip(prompts, waveforms, answers, strict=True):
            if len(answer.token_ids) > 1:
                scores += self._concordance([*prompt], [*answer.token_ids], waveform, heads)
        return following_heads(dict(zip(heads, scores.tolist(), strict=True)))

    def _concordance(
        self, prompt: list[int], answer: list[int], waveform: Waveform, heads: Sequence[AttentionHead]
    ) -> torch.Tensor:
        """(heads,), see `attention.concordance`; the last token of the answer predicts nothing."""
        batch = self._collate([[*prompt, *answer[:-1]]], [waveform], padding_side="right")
        with self._attention.watching(batch["input_ids"] == self._audio_token, heads) as watch:
            self._forward(batch, len(prompt) - 1)
            unheard = watch.unheard_by_head()[0]
        first = len(prompt) - 1  # the position that predicts the answer's first token
        return concordance(1 - unheard[:, first : first + len(answer)]).cpu()

    @torch.inference_mode()
    def _in_halves(self, work: Callable[..., Sequence[Any]], *columns: Sequence[Any]) -> list[Any]:
        """`work` over a batch, in halves where it does not fit into memory: no result depends on the batch (fp32)."""
        try:
            return in_halves(work, *columns, on_split=self._say_split)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                "A single session does not fit into memory. Take a larger accelerator, or quantization_bit."
            ) from error

    def _say_split(self, rows: int) -> None:
        if not self._has_split:
            notify(
                f"a batch of {rows} sessions does not fit into memory and is decoded in halves, which takes longer. "
                "Lower simulsa_eval_memory_gb or simulsa_eval_batch_size."
            )
        self._has_split = True

    def _collate(self, rows: list[list[int]], waveforms: Sequence[Waveform], *, padding_side: str) -> dict[str, Any]:
        """LLaMA-Factory's own collator over (token ids, one waveform each)."""
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
        before, self.tokenizer.padding_side = self.tokenizer.padding_side, padding_side
        try:
            collator = MultiModalDataCollatorForSeq2Seq(
                template=self.template,
                model=self.model,
                tokenizer=self.tokenizer,
                processor=self.processor,
                label_pad_token_id=IGNORE,
                pad_to_multiple_of=None,
            )
            with self._adapter.window_of_batch(waveforms) if self._adapter else contextlib.nullcontext():
                batch = dict(collator(features))
        finally:
            self.tokenizer.padding_side = before
        batch.pop("labels")
        if self._adapter:
            batch = self._adapter.shorten(batch)
        return {key: self._place(key, value) for key, value in batch.items()}

    def _collate_left(self, rows: list[list[int]], waveforms: Sequence[Waveform]) -> dict[str, Any]:
        return self._collate(rows, waveforms, padding_side="left")

    def _place(self, key: str, value: Any) -> Any:
        """Where the model's inputs belong; features in its dtype, while positions would lose theirs."""
        if not isinstance(value, torch.Tensor):
            return value
        value = value.to(self._device)
        return value.to(self.model.dtype) if value.is_floating_point() and is_feature(key) else value


def _processor_name() -> str:
    """As the kernel names it; `platform.processor()` is empty on most Linux machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load_backbone(arguments: InferenceArguments, cache_bytes: float = CACHE_BYTES) -> Backbone:
    """Load tokenizer, processor, template and model as LLaMA-Factory does for inference.

    Args:
        arguments: which.
        cache_bytes: what decoding may take besides the weights, where a device is chosen; see `placement`.

    Raises:
        ModelError: something cannot be loaded or does not fit into memory, or the model takes no audio.
    """
    renderer = load_renderer(arguments)
    from llamafactory.model import load_model

    try:
        chosen = placed(arguments, cache_bytes)
        model = free_of_company(load_model(renderer.tokenizer, chosen.model, chosen.finetuning))
    except torch.OutOfMemoryError as error:
        raise does_not_fit(arguments.model.model_name_or_path, error) from error
    except LOADING_ERRORS as error:
        raise cannot_load(arguments, error) from error
    backbone = Backbone(model, renderer)
    kept = kept_weights(model)
    if kept:
        _try_kept_weights(backbone, kept)
    return backbone


def _try_kept_weights(backbone: Backbone, kept: str) -> None:
    """Score and continue a second of silence with a model of which accelerate keeps weights in memory or on disk.

    Its hooks fetch the weights of a module that is called. An architecture that uses another module's weights without
    calling it finds no values there, which only a pass shows.

    Raises:
        ModelError: the model does not work so.
    """
    prompt, silence = Prompt(({"role": "user", "content": AUDIO_PLACEHOLDER},)), np.zeros(SAMPLE_RATE, np.float32)
    try:
        rendered = backbone.render(prompt, silence, "")
        backbone.score([rendered], [silence])
        backbone.generate(
            backbone.encode_prompts([rendered.prompt_ids], [silence]), [GenerationRequest(max_new_tokens=1)]
        )
    except RuntimeError as error:  # NotImplementedError is one
        if "meta" not in str(error):
            raise
        raise ModelError(
            f"{kept} do not fit on the accelerators and stay in memory or on disk, and "
            f"{type(backbone.model).__name__} cannot compute with these. {WAY_OUT}"
        ) from error
    notify(
        f"{kept} do not fit on the accelerators and stay in memory or on disk. Every pass moves them, which takes many "
        f"times as long. {WAY_OUT}"
    )

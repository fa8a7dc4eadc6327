"""Any LLaMA-Factory audio model behind `simulsa_plugin.model.AudioLanguageModel`.

Inputs are built by LLaMA-Factory's own template, multimodal plugin and collator: what is scored and decoded is what
training sees, for every architecture that it trains.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from simulsa_plugin.audio import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.model import Continuation, ReferenceScores, RenderedReference
from simulsa_plugin.toolkit.arguments import InferenceArguments
from simulsa_plugin.toolkit.rendering import LOADING_ERRORS, TemplateRenderer, cannot_load, load_renderer

IGNORE = -100
FINGERPRINT_VALUES = 8


class Backbone(TemplateRenderer):
    """A loaded model with its template and processor."""

    def __init__(self, model: Any, renderer: TemplateRenderer) -> None:
        super().__init__(renderer.tokenizer, renderer.processor, renderer.template, renderer.description)
        self.model = model
        self._stop_ids = set(self.template.get_stop_token_ids(self.tokenizer))
        self.output_width = int(model.get_output_embeddings().weight.shape[0])

    def describe(self) -> dict[str, Any]:
        """Model, adapter, template, weights, dtype and device, for manifests."""
        return {
            **self.description,
            "weights": self._fingerprint(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device.type),
        }

    def _fingerprint(self) -> str:
        """A hash of a few values of every weight: a checkpoint trained again under its old name is another one."""
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            few = weight.detach().reshape(-1)[:FINGERPRINT_VALUES].float().cpu()
            digest.update(name.encode() + few.numpy().tobytes())
        return digest.hexdigest()[:12]

    @torch.inference_mode()
    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Teacher-forced scores of references about waveforms, one forward pass, right-padded as in training.

        Raises:
            ModelError: the batch does not fit into the accelerator's memory.
        """
        rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
        first = min(len(one.prompt_ids) for one in rendered) - 1
        try:
            batch = self._collate(rows, waveforms, padding_side="right")
            logits = self._forward(batch, first)
            return [
                self._scores(logits[index, len(one.prompt_ids) - 1 - first :], one)
                for index, one in enumerate(rendered)
            ]
        except torch.OutOfMemoryError as error:
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
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            logits = self.model(**batch, use_cache=False, logits_to_keep=width - first).logits
        else:
            logits = self.model(**batch, use_cache=False).logits[:, first:]
        return logits

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

    @torch.inference_mode()
    def continue_(
        self,
        prompts: Sequence[Sequence[int]],
        waveforms: Sequence[Waveform],
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[Continuation]:
        """Greedy continuations of forced answer prefixes, one left-padded batch through transformers' `generate`."""
        from transformers import GenerationConfig

        rows = [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)]
        batch = self._collate(rows, waveforms, padding_side="left")
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self._stop_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with self._without_generation_defaults():
            generated = self.model.generate(**batch, generation_config=greedy)
        return [self._continuation(ids) for ids in generated[:, batch["input_ids"].shape[1] :].tolist()]

    @contextlib.contextmanager
    def _without_generation_defaults(self) -> Iterator[None]:
        """Set aside the checkpoint's generation_config.json: `generate` fills gaps from it.

        Chat checkpoints come with a repetition penalty, which is no greedy search.
        """
        from transformers import GenerationConfig

        before, self.model.generation_config = self.model.generation_config, GenerationConfig()
        try:
            yield
        finally:
            self.model.generation_config = before

    def _continuation(self, ids: list[int]) -> Continuation:
        for position, token_id in enumerate(ids):
            if token_id in self._stop_ids:
                return Continuation(tuple(ids[:position]), truncated=False)
        return Continuation(tuple(ids), truncated=True)

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
            batch = dict(collator(features))
        finally:
            self.tokenizer.padding_side = before
        batch.pop("labels")
        return {key: self._place(value) for key, value in batch.items()}

    def _place(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        value = value.to(self.model.device)
        return value.to(self.model.dtype) if value.is_floating_point() else value


def load_backbone(arguments: InferenceArguments) -> Backbone:
    """Load tokenizer, processor, template and model as LLaMA-Factory does for inference.

    Raises:
        ModelError: something cannot be loaded, or the model takes no audio.
    """
    renderer = load_renderer(arguments)
    from llamafactory.model import load_model

    try:
        model = load_model(renderer.tokenizer, arguments.model, arguments.finetuning)
    except LOADING_ERRORS as error:
        raise cannot_load(arguments, error) from error
    return Backbone(model, renderer)

"""Any LLaMA-Factory audio model behind `simulsa_plugin.model.AudioLanguageModel`.

Inputs are built by LLaMA-Factory's own template, multimodal plugin and collator: what is scored and decoded is what
training sees, for every architecture that it trains.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from simulsa_plugin.audio import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.model import Continuation, Prompt, ReferenceScores, RenderedReference
from simulsa_plugin.toolkit.arguments import InferenceArguments, one_line, quiet_toolkit

IGNORE = -100
FINGERPRINT_VALUES = 8
_LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError)


class Backbone:
    """A loaded model with its template and processor."""

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, template: Any, description: Mapping[str, Any]
    ) -> None:
        self.model, self.tokenizer, self.processor, self.template = model, tokenizer, processor, template
        self._description = dict(description)
        self._answer_end = self._encode_answer("")
        self._stop_ids = set(template.get_stop_token_ids(tokenizer))
        self.output_width = int(model.get_output_embeddings().weight.shape[0])
        self.window_seconds = _window_seconds(processor)

    def describe(self) -> dict[str, Any]:
        """Model, adapter, template, weights, dtype and device, for manifests."""
        return {
            **self._description,
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

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokens of prompt and reference, as LLaMA-Factory's supervised processor lays them out.

        Raises:
            ModelError: the template has no place for this prompt, or melts the reference into what follows it.
        """
        prompt_ids = self.render_prompt(prompt, waveform)
        answer_ids, end = self._encode_answer(reference), self._answer_end
        if end and answer_ids[-len(end) :] != end:
            raise ModelError("the template joins the end of the reference with the end of the turn")
        content_ids = tuple(answer_ids[: len(answer_ids) - len(end)])
        return RenderedReference(prompt_ids, content_ids, self._char_ends(content_ids, reference))

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Token ids of a prompt up to where the answer begins, audio tokens for (num_samples,) of waveform included.

        Raises:
            ModelError: the template or the processor refuses the prompt.
        """
        plugin = self.template.mm_plugin
        try:
            messages = plugin.process_messages(
                [dict(message) for message in prompt.messages], [], [], [waveform], self.processor
            )
            head, _ = plugin.process_token_ids([], [], [], [], [waveform], self.tokenizer, self.processor)
            turns = [*messages, {"role": "assistant", "content": ""}]
            body, _ = self.template.encode_oneturn(self.tokenizer, turns, prompt.system or None, prompt.tools or None)
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(f"the template refuses the prompt: {one_line(error)}") from error
        return (*head, *body)

    def _encode_answer(self, content: str) -> list[int]:
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
        _, answer_ids = self.template.encode_oneturn(self.tokenizer, turns)
        return list(answer_ids)

    def _char_ends(self, content_ids: Sequence[int], reference: str) -> tuple[int | None, ...]:
        ends: list[int | None] = []
        for count in range(1, len(content_ids) + 1):
            text = self.decode(content_ids[:count])
            ends.append(len(text) if reference.startswith(text) else None)
        return tuple(ends)

    @torch.inference_mode()
    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Teacher-forced scores of references about waveforms, one forward pass, right-padded as in training."""
        rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
        batch = self._collate(rows, waveforms, padding_side="right")
        first = min(len(one.prompt_ids) for one in rendered) - 1
        logits = self._forward(batch, first)
        return [
            self._scores(logits[index, len(one.prompt_ids) - 1 - first :], one) for index, one in enumerate(rendered)
        ]

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
        chosen = logprobs.gather(1, targets[:, None])[:, 0].tolist()
        return ReferenceScores(tuple(chosen[:-1]), tuple(logprobs[:-1].argmax(-1).tolist()), chosen[-1])

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

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out, not stripped."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

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
    with quiet_toolkit():
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.model import load_model, load_tokenizer

        name = arguments.model.model_name_or_path
        try:
            module = load_tokenizer(arguments.model)
            tokenizer, processor = module["tokenizer"], module["processor"]
            template = get_template_and_fix_tokenizer(tokenizer, arguments.data)
            _check_audio(name, template, processor, arguments.data.template)
            model = load_model(tokenizer, arguments.model, arguments.finetuning)
        except _LOADING_ERRORS as error:
            raise ModelError(
                f"Cannot load the model {name}: {one_line(error.__cause__ or error)}. "
                "Check model_name_or_path, adapter_name_or_path and template."
            ) from error
    description = {"model": name, "adapter": arguments.model.adapter_name_or_path, "template": arguments.data.template}
    return Backbone(model, tokenizer, processor, template, description)


def _audio_processor(processor: Any) -> Any:
    """The part of a processor that takes audio, under the names that LLaMA-Factory looks for."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _window_seconds(processor: Any) -> float | None:
    """Whisper-like extractors cut what is longer than their window, without a word."""
    extractor = _audio_processor(processor)
    samples, rate = getattr(extractor, "n_samples", None), getattr(extractor, "sampling_rate", None)
    return samples / rate if samples and rate else None


def _check_audio(name: str, template: Any, processor: Any, template_name: str) -> None:
    if template.mm_plugin.audio_token is None:
        raise ModelError(f"The template {template_name} takes no audio; for Qwen2-Audio use template: qwen2_audio.")
    if _audio_processor(processor) is None:
        raise ModelError(f"The model {name} has no audio processor. Use an audio-language model.")

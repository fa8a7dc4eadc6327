"""The training-time prompt of any LLaMA-Factory audio model: tokens through its own template and processor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.augmentation.method.boundaries import grapheme_ends
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.prefixes import prefix_lengths, unlike_prefixes
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, one_line, quieten_toolkit
from simulsa_plugin.model.values import Prompt, RenderedReference

LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError)


class TemplateRenderer:
    """Tokenizer, processor and template of a model, without its weights.

    Attributes:
        description: names of model, adapter and template, for manifests.
    """

    def __init__(self, tokenizer: Any, processor: Any, template: Any, description: Mapping[str, Any]) -> None:
        self.tokenizer, self.processor, self.template = tokenizer, processor, template
        self.description = dict(description)
        self.window_seconds = _window_seconds(processor)
        self._answer_start, self._answer_end = self._around_answer()
        self.end_tokens = len(self._answer_end)

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokens of prompt and reference, as LLaMA-Factory's supervised processor lays them out.

        Raises:
            ModelError: the template has no place for this prompt or reference, or melts the reference into what
                follows it.
        """
        self._refuse_audio_token("reference", reference)
        prompt_ids = self.render_prompt(prompt, waveform)
        content_ids = self._encode_content(reference)
        return RenderedReference(prompt_ids, content_ids, self._char_ends(content_ids, reference))

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Token ids of a prompt up to where the answer begins, audio tokens for (num_samples,) of waveform included.

        Raises:
            ModelError: the template or the processor refuses the prompt.
        """
        plugin = self.template.mm_plugin
        self._refuse_audio_token("prompt", prompt.system, *(message["content"] for message in prompt.messages))
        try:
            messages = plugin.process_messages(
                [dict(message) for message in prompt.messages], [], [], [waveform], self.processor
            )
            head, _ = plugin.process_token_ids([], [], [], [], [waveform], self.tokenizer, self.processor)
            turns = [*messages, {"role": "assistant", "content": ""}]
            body, _ = self.template.encode_oneturn(self.tokenizer, turns, prompt.system or None, prompt.tools or None)
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(f"the template refuses the prompt: {one_line(error)}") from error
        return (*head, *body, *self._answer_start)

    def _refuse_audio_token(self, what: str, *texts: str) -> None:
        """What the template puts in the place of audio stands for audio wherever it is, and a training stops at it."""
        token = self.template.mm_plugin.audio_token
        if token and any(token in text for text in texts):
            raise ModelError(f"the {what} holds the template's audio token {token!r}, and no audio for it")

    def _around_answer(self) -> tuple[list[int], list[int]]:
        """What training puts before every answer (a thinking template's empty thought) and after it (end of turn)."""
        one, other = self._encode_answer("a"), self._encode_answer("b")
        return _shared_beginning(one, other), _shared_beginning(one[::-1], other[::-1])[::-1]

    def _encode_answer(self, content: str) -> list[int]:
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
        _, answer_ids = self.template.encode_oneturn(self.tokenizer, turns)
        return list(answer_ids)

    def _encode_content(self, content: str) -> tuple[int, ...]:
        start, end, answer_ids = self._answer_start, self._answer_end, self._encode_answer(content)
        content_ids = tuple(answer_ids[len(start) : len(answer_ids) - len(end)])
        if [*start, *content_ids, *end] != answer_ids:
            raise ModelError("the template joins the reference with what stands around it in its turn")
        return content_ids

    def _char_ends(self, content_ids: Sequence[int], reference: str) -> tuple[int | None, ...]:
        whole = self.decode(content_ids)
        stops = range(1, len(content_ids) + 1)
        lengths = prefix_lengths(lambda start, stop: self.decode(content_ids[start:stop]), stops, whole)
        if whole == reference:
            return tuple(lengths)
        ends = self._normalized_ends(reference, whole)
        return tuple(None if length is None else ends.get(length) for length in lengths)

    def _normalized_ends(self, reference: str, whole: str) -> dict[int, int]:
        """Length of what the tokenizer turns a prefix of a reference into → length of the shortest such prefix.

        Tokenizers normalize: Qwen's compose letters with their marks (NFC), others replace compatibility forms (NFKC),
        lowercase or strip. Tokens then spell another text than the reference, of which a partial is a prefix. Marks
        stay with their letters. A text that no prefix gives is inside a character.

        Args:
            reference: as it is written.
            whole: what the tokenizer turns all of it into.
        """
        stops = (0, *grapheme_ends(reference))
        ends: dict[int, int] = {}
        for end, length in zip(
            stops, prefix_lengths(lambda *span: self._normalized(reference, *span), stops, whole), strict=True
        ):
            if length is not None:
                ends.setdefault(length, end)
        return ends

    def _normalized(self, reference: str, start: int, stop: int) -> str | None:
        try:
            return self.decode(self._encode_content(reference[start:stop]))
        except ModelError:  # a prefix that the template cannot carry is not a partial
            return None

    def unstable_prefixes(self, rendered: RenderedReference, reference: str) -> tuple[int, ...]:
        """Numbers of leading content tokens whose text training would tokenize otherwise.

        A partial is written as text. Plain byte-pair merges never give other tokens for it; tokenizers that look whole
        words up first (`ignore_merges`, as Llama 3's) do.
        """
        ends, content_ids = (0, *rendered.char_ends), rendered.content_ids

        def is_like(start: int, stop: int) -> bool:
            turn = [*self._answer_start, *content_ids[start:stop], *self._answer_end]
            return self._encode_answer(reference[ends[start] : ends[stop]]) == turn

        return unlike_prefixes(is_like, reference, rendered.char_ends)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out, not stripped."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _shared_beginning(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def load_renderer(arguments: InferenceArguments) -> TemplateRenderer:
    """Load tokenizer, processor and template as LLaMA-Factory does for inference.

    Raises:
        ModelError: something cannot be loaded, or the model takes no audio.
    """
    quieten_toolkit()
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    try:
        module = load_tokenizer(arguments.model)
        tokenizer, processor = module["tokenizer"], module["processor"]
        template = get_template_and_fix_tokenizer(tokenizer, arguments.data)
    except LOADING_ERRORS as error:
        raise cannot_load(arguments, error) from error
    _check_audio(arguments.model.model_name_or_path, template, processor, arguments.data.template)
    description = {
        "model": arguments.model.model_name_or_path,
        "adapter": arguments.model.adapter_name_or_path,
        "template": arguments.data.template,
    }
    return TemplateRenderer(tokenizer, processor, template, description)


def cannot_load(arguments: InferenceArguments, error: BaseException) -> ModelError:
    """The error for a model, adapter or template that LLaMA-Factory could not load."""
    reason = one_line(error.__cause__ or error).rstrip(".")
    return ModelError(
        f"Cannot load the model {arguments.model.model_name_or_path}: {reason}. "
        "Check model_name_or_path, adapter_name_or_path and template."
    )


def _audio_processor(processor: Any) -> Any:
    """The part of a processor that takes audio, under the names that LLaMA-Factory looks for."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _window_seconds(processor: Any) -> float | None:
    """Extractors cut what is longer than their window, without a word.

    Whisper's has an attribute for it, Gemma's a default.
    """
    extractor = _audio_processor(processor)
    if extractor is None:
        return None
    default = inspect.signature(type(extractor).__call__).parameters.get("max_length")
    samples = getattr(extractor, "n_samples", None) or (default.default if default else None)
    rate = getattr(extractor, "sampling_rate", None)
    return samples / rate if isinstance(samples, int) and rate else None


def _check_audio(name: str, template: Any, processor: Any, template_name: str) -> None:
    if template.mm_plugin.audio_token is None:
        raise ModelError(f"The template {template_name} takes no audio; for Qwen2-Audio use template: qwen2_audio.")
    if _audio_processor(processor) is None:
        raise ModelError(f"The model {name} has no audio processor. Use an audio-language model.")

"""Prompts of any LLaMA-Factory audio model, tokenized with its template and processor as in training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.augmentation.method.boundaries import grapheme_ends
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.cached_tokenizer import CachedTokenizer
from simulsa_plugin.llamafactory.data.prefixes import WINDOW, prefix_lengths, unstable_prefix_lengths
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, one_line, silence_libraries
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
        self._cached_tokenizer = CachedTokenizer(tokenizer)
        self.window_seconds = _window_seconds(processor)
        self._answer_start, self._answer_end = self._around_answer()
        self.end_tokens = len(self._answer_end)

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokenize prompt and reference like LLaMA-Factory's supervised processor.

        Raises:
            ModelError: the template cannot render this prompt or reference, or merges the reference with the text
                around it.
        """
        prompt_ids, content_ids = self._token_ids(prompt, waveform, reference)
        return RenderedReference(prompt_ids, content_ids, self._char_ends(content_ids, reference))

    def count_tokens(self, prompt: Prompt, waveform: Waveform, reference: str) -> tuple[int, int]:
        """Count the tokens of `render`, which are quicker found than the characters where they end.

        Raises:
            ModelError: likewise.
        """
        prompt_ids, content_ids = self._token_ids(prompt, waveform, reference)
        return len(prompt_ids), len(content_ids)

    def _token_ids(self, prompt: Prompt, waveform: Waveform, reference: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        self._refuse_audio_token("reference", reference)
        return self.render_prompt(prompt, waveform), self._encode_content(reference)

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Return the token ids of a prompt up to where the answer begins, with the audio tokens of (num_samples,).

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
            body, _ = self.template.encode_oneturn(
                self._cached_tokenizer, turns, prompt.system or None, prompt.tools or None
            )
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(f"the template refuses the prompt: {one_line(error)}") from error
        return (*head, *body, *self._answer_start)

    def _refuse_audio_token(self, what: str, *texts: str) -> None:
        """Raise ModelError for texts with the template's audio placeholder, which have no audio for it."""
        token = self.template.mm_plugin.audio_token
        if token and any(token in text for text in texts):
            raise ModelError(f"the {what} holds the template's audio token {token!r}, and no audio for it")

    def _around_answer(self) -> tuple[list[int], list[int]]:
        """Return the tokens before every answer (a thinking template's empty thought) and after it (end of turn)."""
        one, other = self._encode_answer("a"), self._encode_answer("b")
        return _common_prefix(one, other), _common_prefix(one[::-1], other[::-1])[::-1]

    def _encode_answer(self, content: str) -> list[int]:
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
        _, answer_ids = self.template.encode_oneturn(self._cached_tokenizer, turns)
        return list(answer_ids)

    def _encode_answers_ahead(self, contents: Sequence[str]) -> None:
        """Encode answers in one batch, before the template asks for them one by one."""
        elements = (one for content in contents for one in self.template.format_assistant.apply(content=content))
        self._cached_tokenizer.encode_ahead(one for one in elements if isinstance(one, str))

    def _encode_content(self, content: str) -> tuple[int, ...]:
        start, end, answer_ids = self._answer_start, self._answer_end, self._encode_answer(content)
        content_ids = tuple(answer_ids[len(start) : len(answer_ids) - len(end)])
        if [*start, *content_ids, *end] != answer_ids:
            raise ModelError("the template merges tokens of the reference with those around it")
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
        """Map the length of a normalized prefix of a reference to the length of the shortest prefix that gives it.

        Tokenizers normalize: Qwen's compose letters with their marks (NFC), others replace compatibility forms (NFKC),
        lowercase or strip. The text of the tokens then differs from the reference, of which a partial is a prefix.
        Prefixes end between graphemes. A length that no prefix gives is inside a character.

        Args:
            reference: original text.
            whole: the text of all its tokens.
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
        except ModelError:  # a prefix that the template cannot render is not a partial
            return None

    def unstable_prefixes(self, rendered: RenderedReference, reference: str) -> tuple[int, ...]:
        """Return the lengths of token prefixes whose text training would tokenize differently.

        A partial is written as text. Byte-pair merges alone give the same tokens for it; tokenizers that look up whole
        words first (`ignore_merges`, as in Llama 3) may not.
        """
        ends, content_ids = (0, *rendered.char_ends), rendered.content_ids
        ahead: set[tuple[int, int]] = set()

        def is_stable(start: int, stop: int) -> bool:
            if (start, stop) not in ahead:
                stops = [one for one in range(stop, min(stop + WINDOW, len(ends))) if ends[one] is not None]
                self._encode_answers_ahead([reference[ends[start] : ends[one]] for one in stops])
                ahead.update((start, one) for one in stops)
            turn = [*self._answer_start, *content_ids[start:stop], *self._answer_end]
            return self._encode_answer(reference[ends[start] : ends[stop]]) == turn

        return unstable_prefix_lengths(is_stable, reference, rendered.char_ends)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Detokenize, without special tokens; white space is not stripped."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def load_renderer(arguments: InferenceArguments) -> TemplateRenderer:
    """Load tokenizer, processor and template as LLaMA-Factory does for inference.

    Raises:
        ModelError: something cannot be loaded, or the model does not support audio.
    """
    silence_libraries()
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
    """Return the error for a model, adapter or template that LLaMA-Factory could not load."""
    reason = one_line(error.__cause__ or error).rstrip(".")
    return ModelError(
        f"Cannot load the model {arguments.model.model_name_or_path}: {reason}. "
        "Check model_name_or_path, adapter_name_or_path and template."
    )


def _audio_processor(processor: Any) -> Any:
    """Return the audio part of a processor, by the names that LLaMA-Factory uses."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _window_seconds(processor: Any) -> float | None:
    """Return the window of a feature extractor, which silently cuts longer audio; None without one.

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

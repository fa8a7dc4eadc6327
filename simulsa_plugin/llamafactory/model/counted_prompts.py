"""Prompts whose audio tokens are counted by the formula of the architecture, without features of the audio."""

from __future__ import annotations

from typing import Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer, load_renderer
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.model.audio_encoder import adapter_for
from simulsa_plugin.llamafactory.model.features import use_short_extractor
from simulsa_plugin.llamafactory.model.model_size import WITH_THINKER, build_on_meta
from simulsa_plugin.model.values import Prompt


class CountingRenderer(TemplateRenderer):
    """A renderer that calls the template once for each text of a prompt, where an adapter counts audio tokens.

    Args:
        renderer: of the model.
        base: the model without its LoRA wrapper; its weights may be on the meta device.
        adapts: False uses the template alone.
    """

    def __init__(self, renderer: TemplateRenderer, base: Any, *, adapts: bool = True) -> None:
        super().__init__(renderer.tokenizer, renderer.processor, renderer.template, renderer.description)
        if adapts:
            use_short_extractor(self.processor)
        self._adapter = adapter_for(base, self.processor) if adapts else None
        self._audio_token = int(getattr(base.config, "audio_token_id", None) or 0)
        self._split_prompts: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Render a prompt.

        Raises:
            ModelError: the template or the processor refuses the prompt.
        """
        if self._adapter is None:
            return super().render_prompt(prompt, waveform)
        text = repr(prompt)
        if text not in self._split_prompts:
            self._split_prompts[text] = self._split_at_audio(super().render_prompt(prompt, waveform))
        head, tail = self._split_prompts[text]
        return (*head, *[self._audio_token] * self._adapter.num_tokens(len(waveform)), *tail)

    def _split_at_audio(self, prompt_ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        first = prompt_ids.index(self._audio_token)
        last = len(prompt_ids) - prompt_ids[::-1].index(self._audio_token)
        return prompt_ids[:first], prompt_ids[last:]


def load_counting_renderer(arguments: InferenceArguments) -> TemplateRenderer:
    """Load what renders prompts as quickly as the loaded model would, without its weights.

    Raises:
        ModelError: see `load_renderer`.
    """
    renderer, model = load_renderer(arguments), build_on_meta(arguments.model)
    if model is None:
        return renderer
    with_thinker = getattr(model.config, "model_type", None) in WITH_THINKER
    return CountingRenderer(renderer, model.thinker if with_thinker else model)

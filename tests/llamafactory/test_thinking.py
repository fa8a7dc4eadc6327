"""Templates that think before they answer: what training puts before the answer belongs to the prompt."""

import dataclasses

import numpy as np
import pytest

from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer, load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.model.values import Prompt

ASK = Prompt(({"role": "user", "content": "<audio>Translate the English speech into German."},))
SECOND = np.zeros(16_000, np.float32)
REFERENCES = ("Der Mann hat das Auto gekauft.", "ja", "", " so")


@pytest.fixture(scope="module", params=[True, False], ids=["thinking", "not thinking"])
def renderer(request):
    """The packaged model's template as a thinking one, as LLaMA-Factory defines Qwen3-Omni's."""
    from llamafactory.data.template import ReasoningTemplate

    plain = load_renderer(inference_arguments({"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}))
    fields = {field.name: getattr(plain.template, field.name) for field in dataclasses.fields(plain.template)}
    template = ReasoningTemplate(**fields | {"enable_thinking": request.param})
    return TemplateRenderer(plain.tokenizer, plain.processor, template, plain.description)


@pytest.mark.parametrize("reference", REFERENCES)
def test_prompt_and_content_are_what_training_sees(renderer, reference):
    # LLaMA-Factory's own encoding of the turn, without our splitting.
    rendered = renderer.render(ASK, SECOND, reference)
    messages = renderer.template.mm_plugin.process_messages(list(ASK.messages), [], [], [SECOND], renderer.processor)
    prompt_ids, answer_ids = renderer.template.encode_oneturn(
        renderer.tokenizer, [*messages, {"role": "assistant", "content": reference}]
    )
    end = renderer.tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    assert [*rendered.prompt_ids, *rendered.content_ids, *end] == [*prompt_ids, *answer_ids]
    assert renderer.tokenizer.decode(rendered.content_ids) == reference
    assert renderer.render_prompt(ASK, SECOND) == rendered.prompt_ids


def test_the_empty_thought_stands_before_the_answer(renderer):
    text = renderer.tokenizer.decode(renderer.render_prompt(ASK, SECOND))
    assert text.rstrip().endswith("</think>")

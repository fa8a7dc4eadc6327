"""The keys of simultaneous decoding in the tab Train: fields that write into LLaMA Board's extra arguments."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from simulsa_plugin.evaluation.evaluation_settings import HookSettings
from simulsa_plugin.presets import PRESETS
from simulsa_plugin.streaming.catalogue import POLICIES

Elements = dict[str, Any]
# In the browser, as answers of a server may come in another order than the keys that were pressed. Extra arguments that
# are not valid JSON stay: LLaMA Board refuses them at the start.
_MERGE = """(extra, ...values) => {
    let found;
    try {
        found = JSON.parse(extra || "{}");
    } catch {
        return extra;
    }
    %s.forEach((key, number) => {
        const value = Array.isArray(values[number]) ? values[number].join(",") : values[number];
        if (value) {
            found[key] = value;
        } else {
            delete found[key];
        }
    });
    return JSON.stringify(found);
}"""
EXTRA_ARGUMENTS = "extra_args"  # the element of the tab Train whose JSON becomes a part of the recipe


def with_simultaneous_fields(create_train_tab: Callable[[Any], Elements]) -> Callable[[Any], Elements]:
    """Wrap LLaMA Board's `create_train_tab`: add the fields below its own.

    The returned elements are its own alone: LLaMA Board translates and saves those that it knows.
    """

    @functools.wraps(create_train_tab)
    def create(engine: Any) -> Elements:
        elements = create_train_tab(engine)
        _add_fields(elements[EXTRA_ARGUMENTS])
        return elements

    return create


def _add_fields(extra: Any) -> None:
    import gradio as gr

    with gr.Accordion("SimulSA: simultaneous decoding at every evaluation", open=False):
        gr.Markdown(
            "Decodes a test set of dataset_info.json chunk by chunk at every evaluation (a Val size above 0 evaluates "
            "every Save steps). The fields write into Extra arguments, which also takes every other `simulsa_` key."
        )
        with gr.Row():
            fields: dict[str, Any] = {
                "simulsa_eval_dataset": gr.Textbox(label="Test set", placeholder="a name in dataset_info.json"),
                "simulsa_preset": gr.Dropdown(["", *PRESETS], label="Preset", value=""),
                "simulsa_eval_policies": gr.Dropdown(
                    list(POLICIES), multiselect=True, label="Policies", info=f"default: {_default('eval_policies')}"
                ),
                "simulsa_eval_chunks": gr.Textbox(label="Chunks in ms", placeholder=_default("eval_chunks")),
                "simulsa_eval_rollbacks": gr.Textbox(label="Rollbacks", placeholder=_default("eval_rollbacks")),
                "simulsa_eval_samples": gr.Textbox(label="Utterances", placeholder=_default("eval_samples")),
            }
        for field in fields.values():
            field.input(None, [extra, *fields.values()], extra, js=_MERGE % json.dumps(list(fields)))


def _default(key: str) -> str:
    value = getattr(HookSettings(), key)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

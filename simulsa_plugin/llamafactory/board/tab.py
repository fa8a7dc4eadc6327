"""The tab SimulSA of LLaMA Board: augmentation and the live demo of the model that is chosen above."""

from __future__ import annotations

import functools
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

LINES_SHOWN = 200
_ENDS = {0: "finished", 130: "stopped"}  # by exit code
_PROGRAMS = {"augment": "simulsa_plugin.commands.augment", "live": "simulsa_plugin.commands.live"}


def add_simulsa_tab(interface: ModuleType) -> None:
    """Let LLaMA Board's `create_ui` make the tab before its footer, which comes after its own tabs."""
    create_train_tab, create_footer = interface.create_train_tab, interface.create_footer
    engines: list[Any] = []  # whose interface is being made

    @functools.wraps(create_train_tab)
    def remember_engine(engine: Any) -> dict[str, Any]:
        engines[:] = [engine]
        elements: dict[str, Any] = create_train_tab(engine)
        return elements

    @functools.wraps(create_footer)
    def create() -> dict[str, Any]:
        for engine in engines:
            _add_tab(engine)
        elements: dict[str, Any] = create_footer()
        return elements

    interface.create_train_tab, interface.create_footer = remember_engine, create  # type: ignore[attr-defined]


def recipe_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of what is chosen in LLaMA Board: model, checkpoint, template, datasets.

    Args:
        values: of its elements, by their ids such as `top.model_path`.
    """
    from llamafactory.extras.constants import PEFT_METHODS
    from llamafactory.webui.common import get_save_dir

    recipe = {
        "model_name_or_path": values["top.model_path"],
        "template": values["top.template"],
        "dataset": ",".join(values["train.dataset"] or ()),
        "dataset_dir": values["train.dataset_dir"],
    }
    chosen, method = values["top.checkpoint_path"], values["top.finetuning_type"]
    if chosen and method in PEFT_METHODS:
        folders = [get_save_dir(values["top.model_name"], method, one) for one in chosen]
        recipe["adapter_name_or_path"] = ",".join(folders)
    elif chosen:
        recipe["model_name_or_path"] = get_save_dir(values["top.model_name"], method, chosen)
    return {key: value for key, value in recipe.items() if value}


class Program:
    """One of the plugin's programs, beside LLaMA Board; one at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, name: str, arguments: list[str]) -> Iterator[str]:
        """Start a program and yield what it has printed so far, until it ends.

        Args:
            name: a key of `_PROGRAMS`.
            arguments: of the command line.
        """
        if self._process is not None and self._process.poll() is None:
            yield "A program of this tab is running. Stop it first."
            return
        start = f"import sys; from {_PROGRAMS[name]} import main; sys.exit(main())"
        command = [sys.executable, "-u", "-c", start, *arguments]
        lines = [f"$ simulsa-{name} {shlex.join(arguments)}"]
        yield lines[0]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self._process.stdout or ():
            lines = [*lines, line.rstrip("\n")][-LINES_SHOWN:]
            yield "\n".join(lines)
        code = self._process.wait()
        yield "\n".join([*lines, _ENDS.get(code, f"ended with exit code {code}")])

    def stop(self) -> None:
        """Interrupt the program as Ctrl-C does; augmentation continues when it is started again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def _add_tab(engine: Any) -> None:
    import gradio as gr

    ids = ["top.model_name", "top.model_path", "top.finetuning_type", "top.checkpoint_path", "top.template"]
    ids += ["train.dataset", "train.dataset_dir"]
    elements = {name: engine.manager.get_elem_by_id(name) for name in ids}
    program = Program()
    with gr.Tab("SimulSA"):
        gr.Markdown(
            "**Augment** makes partial samples of the datasets chosen in Train; then set Data dir there to the folder, "
            "and add NAME_simulsa to the datasets. **Live demo** serves the model and checkpoint chosen above to "
            "a browser; its page also needs a prompt: that of the datasets, or simulsa_prompt among the keys."
        )
        with gr.Row():
            out = gr.Textbox(label="Folder of the augmented dataset", value="data_simulsa")
            keys = gr.Textbox(label="Keys", value="simulsa_preset=recommended", info="key=value, separated by spaces")
            augment = gr.Button("Augment", variant="primary")
        with gr.Row():
            port = gr.Number(label="Port of the live demo", value=8080, precision=0, minimum=1, maximum=65535)
            live_keys = gr.Textbox(label="Keys", value="simulsa_preset=recommended")
            live = gr.Button("Live demo", variant="primary")
        stop = gr.Button("Stop")
        output = gr.Code(label="Output", language="shell", lines=12, interactive=False)

    def run(name: str, *given: Any) -> Iterator[str]:
        *values, words, place = given
        recipe = recipe_of(dict(zip(ids, values, strict=True)))
        option = ["--out", str(place)] if name == "augment" else ["--port", str(int(place))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "llamaboard.yaml"
            path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
            yield from program.run(name, [str(path), *shlex.split(words), *option])

    inputs = list(elements.values())
    augment.click(functools.partial(run, "augment"), [*inputs, keys, out], output)
    live.click(functools.partial(run, "live"), [*inputs, live_keys, port], output)
    stop.click(program.stop, queue=False)

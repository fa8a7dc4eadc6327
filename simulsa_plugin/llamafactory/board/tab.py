"""The tab SimulSA of LLaMA Board: augmentation and the live demo of the model that is chosen above."""

from __future__ import annotations

import functools
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
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
    """One of the plugin's programs, beside LLaMA Board; one at a time, whoever of its users started it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()

    def run(self, name: str, arguments: list[str]) -> Iterator[str]:
        """Start a program and yield what it has printed so far, until it ends.

        Args:
            name: a key of `_PROGRAMS`.
            arguments: of the command line.
        """
        process = self._start(name, arguments)
        if process is None:
            yield "A program of this tab is running. Stop it first."
            return
        yield from _Printed(process, f"$ simulsa-{name} {shlex.join(arguments)}").follow()

    def stop(self) -> None:
        """Interrupt the program as Ctrl-C does; augmentation continues when it is started again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[str] | None:
        start = f"import sys; from {_PROGRAMS[name]} import main; sys.exit(main())"
        command = [sys.executable, "-u", "-c", start, *arguments]
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                return None
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            return self._process


class _Printed:
    """What a process has printed, after a first line.

    A thread reads it: a page that is closed follows no more, and a pipe that nobody reads would stop the process.
    """

    def __init__(self, process: subprocess.Popen[str], first: str) -> None:
        self._lines, self._count, self._ended = deque([first], maxlen=LINES_SHOWN), 1, False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=[process], daemon=True).start()

    def follow(self) -> Iterator[str]:
        """Yield the last lines at every change, until the process has ended."""
        seen, ended = 0, False
        while not ended:
            with self._changed:
                while self._count == seen:
                    self._changed.wait()
                seen, ended, text = self._count, self._ended, "\n".join(self._lines)
            yield text

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._append(line.rstrip("\n"))
        code = process.wait()
        self._append(_ENDS.get(code, f"ended with exit code {code}"), ended=True)

    def _append(self, line: str, *, ended: bool = False) -> None:
        with self._changed:
            self._lines.append(line)
            self._count, self._ended = self._count + 1, ended
            self._changed.notify()


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
        try:
            arguments = [*shlex.split(words), *_option(name, place)]
        except ValueError as error:
            yield f"The keys cannot be read: {error}. Write key=value, separated by spaces, and quote what has spaces."
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "llamaboard.yaml"
            path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
            yield from program.run(name, [str(path), *arguments])

    inputs = list(elements.values())
    augment.click(functools.partial(run, "augment"), [*inputs, keys, out], output)
    live.click(functools.partial(run, "live"), [*inputs, live_keys, port], output)
    stop.click(program.stop, queue=False)


def _option(name: str, place: str | float | None) -> list[str]:
    """Return the option of a program for its folder or its port; none where the field is empty."""
    if not place:
        return []
    return ["--out", str(place)] if name == "augment" else ["--port", str(int(place))]

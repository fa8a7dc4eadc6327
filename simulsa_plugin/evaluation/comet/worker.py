"""Score translations with COMET or XCOMET. Run as a script, by an interpreter with unbabel-comet.

That interpreter may lack this package, so only the standard library and comet are imported here.

    PYTHON worker.py CHECKPOINT INPUT OUTPUT [--batch-size N] [--gpus 0|1]

CHECKPOINT is a folder as on the hub (hparams.yaml and checkpoints/model.ckpt) or the .ckpt file in it. A .ckpt file is
a pickle, and loading a pickle can run arbitrary code: use only checkpoints that you trust. Nothing is downloaded. The
encoder of the checkpoint (`pretrained_model`; only its configuration and tokenizer are read) is a folder, relative to
the checkpoint's, or in the Hugging Face cache; a folder in hparams.yaml overrides the one in the .ckpt file.

INPUT holds one JSON object per line: {"src": text, "mt": text, "ref": text}; all lines may lack src, or ref. OUTPUT
becomes one object: {"scores": [number, …], "segments": those of src and ref that the model used, "class": that of
the model, "version": "unbabel-comet x"}. A failure is one line on stderr and the exit status. A progress bar goes to
stdout if that is a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_FAILED = 1
EXIT_NO_COMET = 3  # 2 is argparse's
EXIT_INPUT = 4
# Class → the segments it needs; other classes use what is given of their hparams' input_segments.
REQUIRED_SEGMENTS = {
    "RegressionMetric": ("src", "ref"),
    "RankingMetric": ("src", "ref"),
    "ReferencelessRegression": ("src",),
}
LONGEST_MESSAGE = 600  # characters


class WorkerError(Exception):
    """A failure with a one-line message and an exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find_checkpoint(path: Path) -> Path:
    """Return the absolute path of the .ckpt file of a checkpoint, given as that file or its folder.

    Links are not followed: in a hub's cache, model.ckpt is one, and hparams.yaml is not beside its target.

    Raises:
        WorkerError: there is no such file or folder, or no hparams.yaml where COMET expects it.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise WorkerError(f"The COMET checkpoint {path} does not exist.", EXIT_INPUT)
    checkpoint = path / "checkpoints" / "model.ckpt" if path.is_dir() else path
    folder = checkpoint.parents[1]
    if not (folder / "hparams.yaml").is_file():
        raise WorkerError(
            f"The COMET checkpoint {path} has no {folder / 'hparams.yaml'}; a checkpoint is a folder "
            "with hparams.yaml and checkpoints/model.ckpt, or such a .ckpt file.",
            EXIT_INPUT,
        )
    if not checkpoint.is_file():
        raise WorkerError(
            f"The COMET checkpoint {path} has no {checkpoint}; if its .ckpt file has another name, give that file.",
            EXIT_INPUT,
        )
    return checkpoint


def score_lines(checkpoint: Path, lines: Sequence[dict[str, str]], *, batch_size: int, gpus: int) -> dict[str, Any]:
    """Score lines; return the content of the output file, scores in the order of the lines.

    Args:
        checkpoint: as `find_checkpoint` gives it.
        lines: one object per segment, all with the same keys.
        batch_size: segments scored at a time.
        gpus: 1: on a GPU if there is one; 0: not.

    Raises:
        WorkerError: comet is missing, the checkpoint cannot be loaded, or the model needs other segments.
    """
    _stay_offline()
    model = _load(checkpoint)
    segments = _segments_used(model, lines[0])
    # comet's progress bar goes to stderr, where warnings would interrupt it.
    with contextlib.redirect_stderr(sys.stdout), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prediction = model.predict(
            list(lines), batch_size=batch_size, gpus=gpus, num_workers=0, progress_bar=sys.stdout.isatty()
        )
    return {
        "scores": [float(score) for score in prediction["scores"]],
        "segments": segments,
        "class": type(model).__name__,
        "version": f"unbabel-comet {_version()}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return 0, or one of the EXIT_ codes after a line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        text = options.input.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.split("\n") if line]
        output = Path(os.path.abspath(options.output))  # the working directory will change
        result = score_lines(
            find_checkpoint(options.checkpoint), lines, batch_size=options.batch_size, gpus=options.gpus
        )
        output.write_text(json.dumps(result), encoding="utf-8")
    except WorkerError as error:
        print(_one_line(str(error)), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print(_one_line(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score translations with COMET or XCOMET.", allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="a folder as on the hub, or its .ckpt file; a pickle: trust it")
    parser.add_argument("input", type=Path, help='JSON lines {"src": …, "mt": …, "ref": …}')
    parser.add_argument("output", type=Path, help="gets one JSON object")
    parser.add_argument("--batch-size", type=int, default=8, help="segments scored at a time (default: 8)")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=1, help="0: use no GPU even if there is one")
    return parser


def _stay_offline() -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def _load(checkpoint: Path) -> Any:
    load_from_checkpoint = _import_loader()
    folder = checkpoint.parents[1]
    encoder = _named_encoder(folder / "hparams.yaml")
    # transformers resolves names of folders relative to the working directory.
    os.chdir(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # Without reload_hparams, comet reads only the class from hparams.yaml.
            model = load_from_checkpoint(str(checkpoint), reload_hparams=os.path.isdir(encoder), local_files_only=True)
        except Exception as error:
            # The exception of transformers for a missing encoder differs between versions.
            hint = (
                ""
                if os.path.isdir(encoder)
                else (
                    f" There is no folder {folder / encoder}, so the Hugging Face "
                    f"cache must have configuration and tokenizer of {encoder}."
                )
            )
            cause = f"{type(error).__name__}: {error}"
            raise WorkerError(f"{checkpoint} cannot be loaded.{hint} The cause: {cause}") from error
    # comet only warns about missing weights; the scores would be random.
    lacking = [name for name, _ in model.named_parameters() if any(repr(name) in str(w.message) for w in caught)]
    if lacking:
        raise WorkerError(
            f"{checkpoint} lacks {len(lacking)} weights of a {type(model).__name__}, such as "
            f"{lacking[0]}; does hparams.yaml belong to it?"
        )
    return model


def _import_loader() -> Any:
    try:
        from comet import load_from_checkpoint
    except ImportError as error:
        # Otherwise a dependency of comet is missing or too new.
        reason = "has no unbabel-comet" if error.name == "comet" else f"cannot import its unbabel-comet ({error})"
        raise WorkerError(f"{sys.executable} {reason}.", EXIT_NO_COMET) from error
    return load_from_checkpoint


def _named_encoder(hparams: Path) -> str:
    """Read `pretrained_model` from a flat YAML mapping; empty if it is missing."""
    for line in hparams.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "pretrained_model":
            return value.strip().strip("'\"")
    return ""


def _segments_used(model: Any, line: dict[str, str]) -> list[str]:
    name, given = type(model).__name__, [segment for segment in ("src", "ref") if segment in line]
    if name in REQUIRED_SEGMENTS:
        used, enough = [*REQUIRED_SEGMENTS[name]], set(REQUIRED_SEGMENTS[name]) <= set(given)
        wanted = " and ".join(used)
    else:
        accepted = [segment for segment in model.hparams.input_segments if segment != "mt"]
        used = [segment for segment in given if segment in accepted]
        enough, wanted = bool(used), " or ".join(accepted)
    if not enough:
        raise WorkerError(
            f"The COMET model is a {name}, which needs {wanted} with each translation; "
            f"there is {' and '.join(given) or 'neither'}.",
            EXIT_INPUT,
        )
    return used


def _version() -> str:
    try:
        return importlib.metadata.version("unbabel-comet")
    except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        import comet

        return str(comet.__version__)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "…"


def _remove_own_folder_from_path() -> None:
    """Remove this file's folder from the path: its package is also named comet."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != own]


if __name__ == "__main__":
    _remove_own_folder_from_path()
    sys.exit(main())

"""Score translations with COMET or XCOMET. Run as a file, by an interpreter that has unbabel-comet.

That interpreter need not have this package, so nothing of it is imported here: only the standard library and comet.

    PYTHON comet_worker.py CHECKPOINT INPUT OUTPUT [--batch-size N] [--gpus 0|1]

CHECKPOINT is a folder as on the hub (hparams.yaml and checkpoints/model.ckpt) or the .ckpt file in it. A .ckpt file is
a pickle, and to load a pickle can mean to run what its maker put there: give only checkpoints that you trust. Nothing
is fetched. The encoder that the checkpoint names (`pretrained_model`; only its configuration and tokenizer are read) is
a folder, relative to the checkpoint's, or else stands in the Hugging Face cache; a folder that hparams.yaml names
replaces what the .ckpt file names.

INPUT holds one JSON object per line: {"src": text, "mt": text, "ref": text}; all lines may lack src, or ref. OUTPUT
becomes one object: {"scores": [number, …], "segments": those of src and ref that the model looked at, "class": that of
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
# Class → the segments it cannot do without; the others take what is there of their hparams' input_segments.
REQUIRED_SEGMENTS = {
    "RegressionMetric": ("src", "ref"),
    "RankingMetric": ("src", "ref"),
    "ReferencelessRegression": ("src",),
}
LONGEST_MESSAGE = 600  # characters


class WorkerError(Exception):
    """A failure that can be said in one line; `exit_code` says whose it is."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find_checkpoint(path: Path) -> Path:
    """The absolute path of the .ckpt file of a checkpoint given as that file or as the folder around it.

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
    """What becomes the output file; the scores are in the order of the lines.

    Args:
        checkpoint: as `find_checkpoint` gives it.
        lines: one object per segment, all with the same keys.
        batch_size: segments scored at a time.
        gpus: 1: on a GPU if there is one; 0: not.

    Raises:
        WorkerError: comet is not there, the checkpoint cannot be loaded, or the model needs other segments.
    """
    _stay_offline()
    model = _load(checkpoint)
    segments = _segments_used(model, lines[0])
    # comet draws its bar on stderr, where others' warnings would tear it.
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
    """Do what the module says; the exit status is 0, or one of the EXIT_ numbers after a line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        text = options.input.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.split("\n") if line]
        output = Path(os.path.abspath(options.output))  # the working folder will be another
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
    load_from_checkpoint = _comets_loader()
    folder = checkpoint.parents[1]
    encoder = _named_encoder(folder / "hparams.yaml")
    # transformers takes a name for a folder, if there is one, relative to the working folder.
    os.chdir(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # Without reload_hparams, comet takes nothing but the class from hparams.yaml.
            model = load_from_checkpoint(str(checkpoint), reload_hparams=os.path.isdir(encoder), local_files_only=True)
        except Exception as error:
            # What transformers raises for an encoder that is not there differs between its versions.
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
    # comet loads a checkpoint that lacks weights with a mere warning; the scores would be random numbers.
    lacking = [name for name, _ in model.named_parameters() if any(repr(name) in str(w.message) for w in caught)]
    if lacking:
        raise WorkerError(
            f"{checkpoint} lacks {len(lacking)} weights of a {type(model).__name__}, such as "
            f"{lacking[0]}; does hparams.yaml belong to it?"
        )
    return model


def _comets_loader() -> Any:
    try:
        from comet import load_from_checkpoint
    except ImportError as error:
        # Otherwise comet is there and something that it needs is not, or is too new.
        reason = "has no unbabel-comet" if error.name == "comet" else f"cannot import its unbabel-comet ({error})"
        raise WorkerError(f"{sys.executable} {reason}.", EXIT_NO_COMET) from error
    return load_from_checkpoint


def _named_encoder(hparams: Path) -> str:
    """`pretrained_model` in a file that is a flat mapping; empty if it is not there."""
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


def _forget_own_folder() -> None:
    """Take this file's folder, where Python looks first, off the path: a module in it is named comet, too."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != own]


if __name__ == "__main__":
    _forget_own_folder()
    sys.exit(main())

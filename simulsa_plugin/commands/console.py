"""What every console script shares: one line per user mistake, an exit code, and no traceback."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from simulsa_plugin.errors import SimulsaError, StorageError, UsageError
from simulsa_plugin.storage import DISK_ERRORS, cannot_write

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UsageErrors: one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the next step."""
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def recipe_and_overrides(words: Sequence[str], hint: str = "") -> tuple[Path | None, list[str]]:
    """Tell `RECIPE.yaml` from `key=value` among the words of a command line.

    Raises:
        UsageError: there are two recipes; `hint` is added to what is allowed.
    """
    overrides = [word for word in words if "=" in word]
    recipes = [word for word in words if "=" not in word]
    if len(recipes) > 1:
        raise UsageError(f"Unexpected argument {recipes[1]!r}: one recipe and key=value are allowed.{hint}")
    return (Path(recipes[0]) if recipes else None), overrides


def run_command(prog: str, function: Callable[[], int]) -> int:
    """Run a command and turn what stops it into a message and an exit code.

    Args:
        prog: name of the console script, for messages.
        function: does the work; returns 0, or 1 where the work failed.

    Returns:
        The function's code; 0 after --help; a SimulsaError's own (1 failed, 2 usage); 130 after Ctrl-C; 1 where the
        disk is full or broken, or the reader of the output has gone.
    """
    try:
        code = function()
        sys.stdout.flush()
    except SimulsaError as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"{prog}: error: {_unconverted(error)}", file=sys.stderr)
        return 1
    return code


def _unconverted(error: OSError) -> StorageError:
    """The line for a disk that failed where nobody expected it; a library may not say which file it was writing."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
    name = error.filename or "the output"
    return cannot_write(f"or read {name}" if error.errno == errno.EIO else name, error)


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing aloud."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as under a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

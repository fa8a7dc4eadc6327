"""Running a console script: one line per user mistake, an exit code, no traceback, and the package's log printed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from simulsa_plugin.api.boundary import exit_error
from simulsa_plugin.commands.interruption import INTERRUPTED, Interruption, interruptible
from simulsa_plugin.errors import SimulsaError, StorageError, UsageError
from simulsa_plugin.files.atomic import DISK_ERRORS, cannot_write
from simulsa_plugin.terminal import standard_streams

LONGEST_LINE = 2000  # characters of an error; a library may put a whole table into its own
STREAM_ERRORS = frozenset({errno.EBADF, errno.EIO})  # of an output that was opened for reading, or has gone


class _HelpPrintedError(Exception):
    """A parser has printed its help or version: the command ends with exit code 0."""


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, so that its messages are one line as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the next step."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        hint = self._near_option(unknown[1]) if unknown else ""
        raise UsageError(f"{message}.{hint} See `{self.prog} --help`.")

    def _near_option(self, word: str) -> str:
        """Return what may have been meant by an unknown option: another one, or a key, which has no dashes."""
        from simulsa_plugin.settings import did_you_mean

        takes_keys = any("key=value" in str(action.metavar) for action in self._actions)
        keys = f" Keys are written key=value: simulsa_{word[2:].replace('-', '_')}=…" if takes_keys else ""
        return did_you_mean(word, self._option_string_actions, compared_from=2) or keys

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the command after --help or --version."""
        raise _HelpPrintedError


class _MessageHandler(logging.Handler):
    """Prints what the package logs as a command's own output: information on stdout, warnings on stderr."""

    def __init__(self, prog: str) -> None:
        super().__init__(logging.INFO)
        self._prog = prog

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            print(f"{self._prog}: warning: {record.getMessage()}", file=sys.stderr, flush=True)
        else:
            print(record.getMessage(), flush=True)


@contextlib.contextmanager
def _printed_messages(prog: str) -> Iterator[None]:
    """Print what the package logs, for as long as the context lasts."""
    logger, handler = logging.getLogger("simulsa_plugin"), _MessageHandler(prog)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # to handlers that libraries set up
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def output_place(text: str) -> Path | str:
    """Parse an output folder on the command line, which may be an address. Raises as `output_folder`."""
    scheme = re.match(r"([a-z0-9]{2,}):/(?!/)", text)
    if scheme and not Path(f"{scheme[1]}:").exists():
        raise argparse.ArgumentTypeError(
            f"{text} is neither a folder nor an address: write {scheme[1]}://… or ./{text}"
        )
    return text if "://" in text else output_folder(text)


def local_path(text: str) -> Path:
    """Parse the path of a file or folder that is read or written where it is.

    Raises:
        ArgumentTypeError: it is an address.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(_is_address(text))
    return Path(text)


def _is_address(text: str) -> str:
    """Return what is wrong with an address where a path is expected."""
    from simulsa_plugin.files.remote import shown

    copies = "aws s3 cp, or aws s3 sync for a folder" if text.startswith("s3://") else "with the tools of its store"
    return f"{shown(text)} is an address, and a path on this machine is expected; copy it ({copies})"


def output_folder(text: str) -> Path:
    """Parse the path of an output folder on the command line.

    Raises:
        ArgumentTypeError: its absolute name is not UTF-8, so JSON cannot hold it.
    """
    path = Path(text)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(
            f"{str(path.absolute())!a} is not UTF-8, and the files in it could not name it; choose another"
        ) from error
    return path


def recipe_and_overrides(words: Sequence[str], hint: str = "") -> tuple[Path | None, list[str]]:
    """Separate `RECIPE.yaml` from `key=value` in the arguments of a command line.

    Raises:
        UsageError: there are two recipes, for which `hint` is added to what is allowed, or it is an address.
    """
    overrides = [word for word in words if "=" in word]
    recipes = [word for word in words if "=" not in word]
    if len(recipes) > 1:
        spaces = any(word.startswith("=") or word.endswith("=") for word in overrides)
        step = " Write key=value without spaces around =." if spaces else ""
        raise UsageError(f"Unexpected argument {recipes[1]!r}: one recipe and key=value are allowed.{step}{hint}")
    if recipes and "://" in recipes[0]:
        raise UsageError(f"The recipe {_is_address(recipes[0])}.")
    return (Path(recipes[0]) if recipes else None), overrides


def run_command(prog: str, function: Callable[[], int], *, goes_on: bool = True, interrupted: str | None = None) -> int:
    """Run a command and turn what stops it into a message and an exit code.

    Args:
        prog: name of the console script, for messages.
        function: does the work; returns 0, or 1 where the work failed.
        goes_on: whether the same command, started again, goes on where it was stopped.
        interrupted: what Ctrl-C means, where that is not the loss of work.

    Returns:
        The function's code; 0 after --help; a SimulsaError's own (1 failed, 2 usage); 130 after Ctrl-C; 1 where the
        disk is full or broken, the reader of the output has gone, or something called sys.exit.
    """
    advice = ". Start the same command again: it goes on where it stopped." if goes_on else "; nothing was finished."
    stopped = f"{prog}: {interrupted or f'interrupted{advice}'}"
    with standard_streams(), _printed_messages(prog), interruptible(stopped) as interruption:
        try:
            return _exit_code(prog, function, interruption)
        except BaseException:
            if not interruption.happened:
                raise
            interruption.report()  # errors that it caused elsewhere are not shown
            return INTERRUPTED


def _exit_code(prog: str, function: Callable[[], int], interruption: Interruption) -> int:
    try:
        code = _call_and_flush(function, interruption)
    except _HelpPrintedError:
        return 0
    except KeyboardInterrupt:
        interruption.report()
        return INTERRUPTED
    except SimulsaError as error:
        _print_error(prog, error)
        return error.exit_code
    except SystemExit as stop:
        _print_error(prog, exit_error(stop))
        return 1
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except UnicodeEncodeError as error:
        _print_error(prog, f"{error.object!a} cannot be written in {error.encoding}. Rename it, or set LC_ALL=C.UTF-8.")
        return 1
    except OSError as error:
        if error.errno not in DISK_ERRORS | STREAM_ERRORS:
            raise
        _print_error(prog, _disk_error(error))
        return 1
    return code


def _call_and_flush(function: Callable[[], int], interruption: Interruption) -> int:
    """Call the function and flush stdout; return its code. Ctrl-C stays Ctrl-C where a library raises another error."""
    try:
        code = function()
        sys.stdout.flush()
    except BaseException as problem:
        if interruption.happened:
            raise KeyboardInterrupt from problem
        raise
    return code


def _print_error(prog: str, problem: object) -> None:
    """Print one line on stderr, unless it is closed."""
    line = f"{prog}: error: {' '.join(str(problem).split())}"
    with contextlib.suppress(BrokenPipeError):
        print(line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…", file=sys.stderr)


def _disk_error(error: OSError) -> StorageError:
    """Convert an OSError of the disk that no other code expected; it may lack the name of the file."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
    name = error.filename or "the output"
    return cannot_write(f"or read {name}" if error.errno == errno.EIO else name, error)


def _silence_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as under a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

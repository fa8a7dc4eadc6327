"""What every function of the Python API shares: the package's own errors, no progress unless asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.files.atomic import DISK_ERRORS, cannot_write
from simulsa_plugin.terminal import progress_shown


@contextlib.contextmanager
def library_call(*, progress: bool) -> Iterator[None]:
    """Run a function of the API.

    Args:
        progress: show how far the work has come, on stderr.

    Raises:
        SimulsaError: in place of a SystemExit, or of the OSError of a disk that is full or broken.
    """
    try:
        with progress_shown(progress):
            yield
    except SystemExit as stop:
        raise exit_error(stop) from stop
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise cannot_write(error.filename or "the output", error) from error


def exit_error(stop: SystemExit) -> SimulsaError:
    """Describe a SystemExit that came out of other people's code."""
    return SimulsaError(
        f"something called sys.exit({stop.code!r}) in the middle of the work; a custom policy, perhaps."
    )

"""The exceptions. Every message tells what happened, the value got, what is allowed, and the next step."""

from __future__ import annotations

from typing import Any


class SimulsaError(Exception):
    """A problem the user can understand and act on; commands print it as one line, without a traceback."""

    exit_code = 1


class UsageError(SimulsaError):
    """The command line or the recipe is wrong: unknown key, bad value, missing argument."""

    exit_code = 2


class AudioError(SimulsaError):
    """An audio file cannot be used; `reason` is the short word written to skipped.jsonl."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, str(self))


class DatasetError(SimulsaError):
    """A dataset is missing, is not described in dataset_info.json, or has no usable rows."""


class RowError(DatasetError):
    """One row of a corpus cannot be used; `reason` is the short word in dropped.jsonl, the message its cause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, str(self))


class ModelError(SimulsaError):
    """A model, adapter, processor or template cannot be loaded or does not fit audio input."""


class StorageError(SimulsaError):
    """An output folder cannot be used: a file is in the way, it is held by another process, or it is another run's."""


class FolderInUseError(StorageError):
    """Another process works in the folder; its number is named."""


class OutputLostError(StorageError):
    """Nothing more can be written to the output: another process has taken over, or what was made has been removed."""


class ClusterError(SimulsaError):
    """A cluster cannot be reached, has no room for a worker, or its workers die; the message says which."""


class LogError(SimulsaError):
    """A log of emissions cannot be scored; the message names the file and the line."""


class MissingExtraError(SimulsaError):
    """An optional part is not installed; the message names the extra that brings it."""

    @classmethod
    def for_package(cls, what: str, package: str, extra: str) -> MissingExtraError:
        """Return the error for a feature whose package is missing."""
        return cls(
            f"{what} needs the package {package}. Install it: pip install {package}, or all of the extra, in the "
            f"clone: pip install '.[{extra}]'."
        )

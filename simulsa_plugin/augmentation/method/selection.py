"""Which rows: one seeded walk over an offline dataset, so that a smaller share is a prefix of a larger one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from simulsa_plugin.augmentation.augment_settings import AugmentSettings

_SAY_IT_ALL = ("not_one_audio", "not_text", "audio_not_a_path")
_ID = re.compile(r"(?P<name>.+)-(?P<row>\d{8,})-(?P<cut>\d+)")


@dataclass(frozen=True)
class Skipped:
    """A row, or one cut of a row, that is left out; a row of skipped.jsonl.

    Attributes:
        id: of the sample that is missing.
        reason: a short word.
        audio: the source file, where the row names one.
        cause: the reason in words, with what was found.
        source_id: what the dataset's own file calls the row, if it does.
    """

    id: str
    reason: str
    audio: str | None = None
    cause: str = ""
    source_id: str | None = None

    def as_row(self) -> dict[str, str]:
        """Return the row of skipped.jsonl, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value}

    @property
    def stops_training(self) -> bool:
        """Whether a training on the row stops at it: audio that is not there or broken, text without its place."""
        audio = self.reason.startswith("audio_") and self.reason != "audio_exceeds_window"
        return audio or self.reason in ("not_renderable", "not_one_audio", "not_text")


def first_causes(skipped: Iterable[Skipped], *, all_reasons: bool = False) -> dict[str, str]:
    """Return reason → its first cause.

    Args:
        skipped: rows or cuts.
        all_reasons: also of rows that do not stop a training, and of reasons that those who know the data understand.
    """
    causes: dict[str, str] = {}
    for one in skipped:
        if one.cause and (all_reasons or (one.stops_training and one.reason not in _SAY_IT_ALL)):
            causes.setdefault(one.reason, one.cause)
    return dict(sorted(causes.items()))


def wanted_samples(rows: int, settings: AugmentSettings) -> int:
    """Return the number of augmented rows: `samples`, or the share of the offline rows rounded half up, at least one.

    >>> wanted_samples(8000, AugmentSettings()), wanted_samples(20, AugmentSettings())
    (80, 1)
    >>> wanted_samples(50, AugmentSettings(ratio=0.29))
    15
    """
    if settings.samples is not None:
        return settings.samples
    share = Decimal(str(settings.ratio)) * rows  # in decimal: 0.29 · 50 is 14.5, which the float product is not
    return max(1, int(share.to_integral_value(ROUND_HALF_UP)))


def walk(name: str, rows: int, seed: int) -> Iterator[int]:
    """Yield row numbers of a dataset in one permutation that depends on (seed, name) alone."""
    yield from map(int, generator(seed, name, "walk").permutation(rows))


def sample_id(name: str, row: int, cut_number: int = 0) -> str:
    """Return the id of an augmented sample.

    >>> sample_id("demo", 17)
    'demo-00000017-0'
    """
    return f"{name}-{row:08d}-{cut_number}"


def parse_sample_id(identifier: str) -> tuple[str, int, int]:
    """Split an id into dataset, row and cut number.

    Raises:
        ValueError: it is not an id.

    >>> parse_sample_id("my-set-00000017-2")
    ('my-set', 17, 2)
    """
    match = _ID.fullmatch(identifier)
    if match is None:
        raise ValueError(f"{identifier!r} is not the id of a sample; expected NAME-ROW-CUT, such as demo-00000017-0")
    return match["name"], int(match["row"]), int(match["cut"])


def generator(*key: object) -> np.random.Generator:
    """Return a generator of random numbers that depend on the key alone: never on paths, batches or processes."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))

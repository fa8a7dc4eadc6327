"""Over- and under-commitment: accepted partials against the true partial translation, where it is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol


class TruePartials(Protocol):
    """A corpus that knows what can be said at any time (the embedded one does)."""

    def true_partial(self, row: int, reference: str, heard_seconds: float) -> str | None:
        """Return the part of a row's reference that is certain after these seconds; None where it is not known."""
        ...


@dataclass(frozen=True)
class LabelQuality:
    """How far an accepted partial is from the true one, in words of the reference.

    Attributes:
        over_words: words begun beyond the true partial.
        under_words: words of the true partial that are not complete in the accepted one.
    """

    over_words: int
    under_words: int

    @property
    def verdict(self) -> str:
        """`over`, `under` or `exact`."""
        return "over" if self.over_words else "under" if self.under_words else "exact"


def compare_partials(reference: str, partial: str, true_partial: str) -> LabelQuality:
    """Compare two beginnings of one reference word by word (white space); a half word counts as begun.

    >>> compare_partials("Der Mann hat das Auto", "Der Mann h", "Der Mann")
    LabelQuality(over_words=1, under_words=0)
    >>> compare_partials("Der Mann hat das Auto", "Der Ma", "Der Mann hat")
    LabelQuality(over_words=0, under_words=2)
    >>> compare_partials("Der Mann hat das Auto", "Der Mann", "Der Mann").verdict
    'exact'
    """
    words, true_count = reference.split(), len(true_partial.split())
    said = partial.split()
    begun = len(said)
    complete = begun if not said or said[-1] == words[begun - 1] else begun - 1
    return LabelQuality(max(0, begun - true_count), max(0, true_count - complete))


@dataclass
class LabelQualityTally:
    """Sums over samples whose true partial is known.

    Attributes:
        over: samples that say too much.
        exact: samples that say what is certain, no more and no less.
        under: samples that say too little.
        over_words: words too much, in all.
        under_words: words too little, in all.
        unknown: samples without a true partial.
    """

    over: int = 0
    exact: int = 0
    under: int = 0
    over_words: int = 0
    under_words: int = 0
    unknown: int = 0

    def add(self, commitment: LabelQuality | None) -> None:
        """Count one sample; None where its true partial is not known."""
        if commitment is None:
            self.unknown += 1
            return
        setattr(self, commitment.verdict, getattr(self, commitment.verdict) + 1)
        self.over_words += commitment.over_words
        self.under_words += commitment.under_words

    @property
    def known(self) -> int:
        """Samples whose true partial is known."""
        return self.over + self.exact + self.under

    def summary(self) -> dict[str, Any]:
        """Return the sums, and the mean words over and under per known sample (None without one)."""
        return asdict(self) | {
            "known": self.known,
            "mean_over_words": self.over_words / self.known if self.known else None,
            "mean_under_words": self.under_words / self.known if self.known else None,
        }

"""Sliding windows: which audio leaves when an utterance outgrows the model's window, and which tokens leave with it.

A window starts where the speaker pauses, if it can. The text that was shown by then, and has not changed since, leaves,
up to the end of a sentence if one is near; the policies go on with what stays. Text can only be about audio that had
arrived when it was first shown, so no audio is left without its text.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.streaming.session import Decode, Session

SENTENCE_MARKS = frozenset(".?!…。？！")
CUT_WORD_SAMPLES = SAMPLE_RATE  # text shown this much after the start may be about a word that was cut


@dataclass(frozen=True)
class SlidingWindow:
    """How a long utterance is decoded.

    Attributes:
        samples: W, the longest audio that a step hears; at least twice the samples of any step.
        pauses: of the speaker in the utterance, (start, end) in samples, in order.
    """

    samples: int
    pauses: Sequence[tuple[int, int]] = field(default=(), repr=False)


def slide(session: Session, window: SlidingWindow, decode: Decode) -> None:
    """Begin a new window where the next step would hear more than W, or the last one has ended the window.

    Args:
        session: whose step has just been completed.
        window: of its utterance.
        decode: token ids to text, special tokens left out.
    """
    if session.finished:
        return
    heard = session.schedule[len(session.steps) - 1]
    if heard.ends_window:
        session.begin_window(heard.samples, len(session.token_ids), len(session.token_ids))
    elif session.window_samples > window.samples:
        start, pause_end = _choose_start(session, window)
        left = _choose_left(session, pause_end, decode)
        about_cut = _shown_at(session, _received_by_step(session, pause_end + CUT_WORD_SAMPLES))
        session.begin_window(start, left, max(left, about_cut))


def _choose_start(session: Session, window: SlidingWindow) -> tuple[int, int]:
    """Return where the next window starts, and where the speaker goes on: in the longest pause that leaves room.

    The window keeps half of W to all of it; without a pause, two thirds.
    """
    earliest = session.due_samples - window.samples
    latest = session.due_samples - window.samples // 2
    inside = [
        (max(start, earliest), min(end, latest)) for start, end in window.pauses if start < latest and end > earliest
    ]
    if not inside:
        return earliest + window.samples // 3, earliest + window.samples // 3
    start, end = max(inside, key=lambda pause: (pause[1] - pause[0], pause))
    return (start + end) // 2, end


def _choose_left(session: Session, samples: int, decode: Decode) -> int:
    """Return how many tokens leave: of those shown before the speaker went on, whole words, or sentences if near."""
    shown = _shown_at(session, samples)
    texts = {count: decode(session.token_ids[:count]) for count in range(shown, 0, -1)}
    whole = decode(session.token_ids)
    boundaries = [count for count, text in texts.items() if _is_boundary(text, whole)]
    sentences = [count for count in boundaries if texts[count].rstrip()[-1] in SENTENCE_MARKS]
    near = [count for count in sentences if 2 * count >= shown]
    return (near or boundaries or [0])[0]


def _received_by_step(session: Session, samples: int) -> int:
    """Return what the first step that had received so many samples had received: it shows what these say."""
    received = (arrival.samples for arrival in session.schedule[: len(session.steps)])
    return next((one for one in received if one >= samples), samples)


def _shown_at(session: Session, samples: int) -> int:
    """Return how many of the tokens were shown when `samples` had arrived, and still are."""
    return sum(1 for _ in itertools.takewhile(lambda since: since <= samples, session.shown_since))


def _is_boundary(before: str, text: str) -> bool:
    """Return whether a word ends where a text is cut.

    >>> _is_boundary("guten", "guten Tag"), _is_boundary("gut", "guten Tag"), _is_boundary("你", "你好")
    (True, False, True)
    """
    after = text[len(before) :]
    if not text.startswith(before) or not before.strip():
        return False
    return not after or before[-1].isspace() or after[0].isspace() or unicodedata.east_asian_width(after[0]) in "WF"

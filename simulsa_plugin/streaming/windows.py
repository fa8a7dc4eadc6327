"""Sliding windows: which audio leaves when an utterance outgrows the model's window, and which tokens leave with it.

A window starts where the speaker pauses, if it can. The text that was committed by then leaves, up to the end of a
sentence if one is near; what stays is the forced prefix of the next step, and the policies go on as before.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.streaming.session import Decode, Session

SENTENCE_MARKS = frozenset(".?!…。？！")
SENTENCE_MARGIN = 2 * SAMPLE_RATE  # text is committed after its audio: a sentence end this much later still leaves


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
        session.begin_window(heard.samples, len(session.token_ids))
    elif session.window_samples > window.samples:
        if session.committed:
            start = _choose_start(session, window)
            session.begin_window(start, _choose_left(session, start, decode))
        else:  # a policy that commits nothing, such as retranslation, would lose the text about the audio that leaves
            session.begin_window(heard.samples, len(session.token_ids))


def _choose_start(session: Session, window: SlidingWindow) -> int:
    """Return where the next window starts: in the longest pause among those that leave it half to two thirds free."""
    earliest = session.due_samples - window.samples
    latest = session.due_samples - window.samples // 2
    inside = [
        (max(start, earliest), min(end, latest)) for start, end in window.pauses if start < latest and end > earliest
    ]
    if not inside:
        return earliest + window.samples // 3
    start, end = max(inside, key=lambda pause: (pause[1] - pause[0], pause))
    return (start + end) // 2


def _choose_left(session: Session, start: int, decode: Decode) -> int:
    """Return how many tokens leave with the audio before `start`."""
    by_then = _committed_at(session, start)
    tokens = session.token_ids[: session.committed]
    text = decode(tokens)
    for count in range(_committed_at(session, start + SENTENCE_MARGIN), 0, -1):
        ends_sentence = decode(tokens[:count]).rstrip()[-1:] in SENTENCE_MARKS
        if ends_sentence and _is_boundary(decode(tokens[:count]), text):
            return count
    return next((n for n in range(by_then, 0, -1) if _is_boundary(decode(tokens[:n]), text)), 0)


def _committed_at(session: Session, samples: int) -> int:
    """Return how many tokens of the current window were committed when `samples` had arrived."""
    number = len(session.left_token_ids)
    counts = [
        step.committed_tokens
        for step, arrival in zip(session.steps, session.schedule, strict=False)
        if step.window == number and arrival.samples <= samples
    ]
    return max(counts, default=0)


def _is_boundary(before: str, text: str) -> bool:
    """Return whether a word ends where a text is cut.

    >>> _is_boundary("guten", "guten Tag"), _is_boundary("gut", "guten Tag"), _is_boundary("你", "你好")
    (True, False, True)
    """
    after = text[len(before) :]
    if not text.startswith(before) or not before.strip():
        return False
    return not after or before[-1].isspace() or after[0].isspace() or unicodedata.east_asian_width(after[0]) in "WF"

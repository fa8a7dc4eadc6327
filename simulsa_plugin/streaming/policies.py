"""Policies: which prefix is forced at a step, when generation stops, what is shown and what is committed.

A policy is a small class over explicit session state. The last step is the same for all: the model continues the forced
prefix to its end of turn, and everything is committed. So of a policy's methods only `prefix_length` applies there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar

from simulsa_plugin.metrics.records import LatencyUnit
from simulsa_plugin.metrics.stability import REPLACEMENT_CHARACTER
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.streaming.session import SAMPLES_PER_MS, Decode, Output, Session


class Policy(ABC):
    """Base class of policies. A custom one defines `name` and `committed`; everything else has a default."""

    name: ClassVar[str]
    heads: tuple[AttentionHead, ...] | None = None
    """Attention heads for `min_audio_ahead`; empty: those that follow the audio best; None: attention is not used."""

    @abstractmethod
    def committed(self, session: Session, output: Output) -> int:
        """Return how many tokens of `output` are committed now; `session.committed` were before this step."""

    def prefix_length(self, session: Session) -> int:
        """Return how many of the session's tokens the next step is forced to keep; by default the committed ones."""
        return session.committed

    def shown(self, session: Session, output: Output, committed: int) -> int:
        """Return how many tokens of `output` are shown; by default all, also those that may still change."""
        return len(output)

    def min_token_probability(self, session: Session) -> float | None:
        """Return the probability below which generation stops before a token; None for no limit."""
        return None

    def min_audio_ahead(self, session: Session) -> float | None:
        """Return the least share of the audio after a token's most attended position, else generation stops before it.

        None for no limit. A policy that gives a share needs `heads`, too.
        """
        return None

    def stopping_criterion(self, session: Session, decode: Decode) -> Callable[[Sequence[int]], bool] | None:
        """Return a function of the new tokens, called after each one; where it is true the step ends. None for none."""
        return None

    def cell(self) -> dict[str, Any]:
        """Return what identifies this policy's cells in scores.json: `rollback` (None if it has none), `parameters`."""
        return {"rollback": None, "parameters": {}}


@dataclass(frozen=True)
class Rollback(Policy):
    """Discard the last `rollback` tokens before every chunk (SimulSA, arXiv 2509.15692).

    c_i = max(c_{i−1}, |y_i| − b); without the floor the literal |y_i| − b, so that a shorter continuation discards
    committed tokens as well. The end of turn does not count as a token.
    """

    rollback: int
    floor: bool = True
    name: ClassVar[str] = "rollback"

    def committed(self, session: Session, output: Output) -> int:
        return max(session.committed if self.floor else 0, len(output) - self.rollback)

    def cell(self) -> dict[str, Any]:
        return {"rollback": self.rollback, "parameters": {} if self.floor else {"rollback_floor": False}}


@dataclass(frozen=True)
class Offline(Policy):
    """Wait for the whole utterance, then translate it: the only step is the last one."""

    name: ClassVar[str] = "offline"

    def committed(self, session: Session, output: Output) -> int:
        return len(output)


class AppendOnly(Policy):
    """A policy that shows only committed tokens, so that its display never changes."""

    def shown(self, session: Session, output: Output, committed: int) -> int:
        return committed


@dataclass(frozen=True)
class Confidence(AppendOnly):
    """Stop before the first token whose probability is below `threshold`.

    A token is committed when each of the `window` tokens that begin with it reaches the threshold: 1 commits all that
    was generated, more withholds the last tokens, which may already depend on what the model is unsure of.
    """

    threshold: float
    window: int = 1
    name: ClassVar[str] = "confidence"

    def committed(self, session: Session, output: Output) -> int:
        return max(session.committed, len(output) - (self.window - 1))

    def min_token_probability(self, session: Session) -> float:
        return self.threshold

    def cell(self) -> dict[str, Any]:
        window = {"confidence_window": self.window} if self.window > 1 else {}
        return {"rollback": 0, "parameters": {"confidence_threshold": self.threshold, **window}}


@dataclass(frozen=True)
class HoldN(AppendOnly):
    """Withhold the last `hold_n` tokens of every output until the next (Liu et al. 2020, Interspeech).

    It commits what rollback does, but does not show what is withheld.
    """

    hold_n: int
    name: ClassVar[str] = "hold_n"

    def committed(self, session: Session, output: Output) -> int:
        return max(session.committed, len(output) - self.hold_n)

    def cell(self) -> dict[str, Any]:
        return {"rollback": None, "parameters": {"hold_n": self.hold_n}}


@dataclass(frozen=True)
class LocalAgreement(AppendOnly):
    """Commit the longest common prefix of the last `agreement_n` outputs (Liu et al. 2020; Polák et al. 2022)."""

    agreement_n: int = 2
    name: ClassVar[str] = "local_agreement"

    def committed(self, session: Session, output: Output) -> int:
        before = session.outputs[len(session.outputs) - (self.agreement_n - 1) :]
        if len(session.outputs) < self.agreement_n - 1:
            return session.committed
        together = zip(output.token_ids, *before, strict=False)
        agreed = next((n for n, tokens in enumerate(together) if len(set(tokens)) > 1), None)
        return min(map(len, [output.token_ids, *before])) if agreed is None else agreed

    def cell(self) -> dict[str, Any]:
        return {"rollback": None, "parameters": {"agreement_n": self.agreement_n}}


@dataclass(frozen=True)
class AgreementOrConfidence(LocalAgreement):
    """Commit what local agreement does, and the following tokens while their probability is at least `threshold`.

    A confident token need not wait for the next output to repeat it, like the words of WhisperLiveKit's
    `confidence_validation`; the agreement of outputs compensates thresholds that are too high.
    """

    threshold: float = 0.9
    name: ClassVar[str] = "agreement_or_confidence"

    def committed(self, session: Session, output: Output) -> int:
        # Earlier outputs may disagree with a committed token that was confident.
        count = max(session.committed, super().committed(session, output))
        return count + sum(1 for _ in takewhile(lambda p: p >= self.threshold, output.probabilities[count:]))

    def cell(self) -> dict[str, Any]:
        parameters = {"agreement_n": self.agreement_n, "confidence_threshold": self.threshold}
        return {"rollback": None, "parameters": parameters}


@dataclass(frozen=True)
class Attention(AppendOnly):
    """Stop before the first token for which the model attends most to the last `recent_ms` of the audio received.

    AlignAtt (Papi et al. 2023, arXiv 2305.11408), for decoder-only models (arXiv 2605.31432, 2606.03967).
    """

    recent_ms: int
    heads: tuple[AttentionHead, ...] = ()
    name: ClassVar[str] = "attention"

    def committed(self, session: Session, output: Output) -> int:
        return len(output)

    def min_audio_ahead(self, session: Session) -> float:
        return self.recent_ms * SAMPLES_PER_MS / session.window_samples

    def cell(self) -> dict[str, Any]:
        return {"rollback": None, "parameters": {"attention_ms": self.recent_ms}}


@dataclass(frozen=True)
class WaitK(AppendOnly):
    """Wait for `wait_k` chunks, then write one word per chunk (Ma et al. 2019, arXiv 1810.08398).

    A word is complete when the next one begins or the answer ends. Where the latency unit is `char`, characters count.
    """

    wait_k: int
    unit: LatencyUnit = "word"
    name: ClassVar[str] = "wait_k"

    def stopping_criterion(self, session: Session, decode: Decode) -> Callable[[Sequence[int]], bool]:
        # The beginning of one more word shows that the last allowed one is complete.
        kept = session.token_ids[: self.prefix_length(session)]
        limit = self._allowed_units(session, decode) + (self.unit == "word")
        return lambda new: self._count_units(decode((*kept, *new))) >= limit

    def committed(self, session: Session, output: Output) -> int:
        allowed, count = self._allowed_units(session, output.decode), len(output)
        while count > session.committed and self._count_units(output.text(count)) > allowed:
            count -= 1
        return count

    def cell(self) -> dict[str, Any]:
        return {"rollback": None, "parameters": {"wait_k": self.wait_k}}

    def _allowed_units(self, session: Session, decode: Decode) -> int:
        """Return how many words may be written in the current window by the step that is due."""
        written = sum(self._count_units(decode(left)) for left in session.left_token_ids)
        return max(0, len(session.steps) + 2 - self.wait_k - written)

    def _count_units(self, text: str) -> int:
        return len(text.split()) if self.unit == "word" else len(text.strip().rstrip(REPLACEMENT_CHARACTER))


@dataclass(frozen=True)
class Retranslation(Policy):
    """Retranslate from scratch at every chunk; commit only at the end (Arivazhagan et al. 2020, arXiv 1912.03393)."""

    name: ClassVar[str] = "retranslation"

    def committed(self, session: Session, output: Output) -> int:
        return 0

"""Policies: what is forced at a step, when the model stops, what is shown and what is committed.

Small classes over explicit session state. The last step is the same for all: the model continues what is kept to its
end of turn, and everything is committed. So a policy is asked about the steps before it alone, but for what is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar

from simulsa_plugin.model.values import Head
from simulsa_plugin.streaming.session import REPLACEMENT, SAMPLES_PER_MS, Decode, Output, Session


class Policy(ABC):
    """One way to decide. A policy of one's own defines `name` and `committed`; all else has a default."""

    name: ClassVar[str]
    heads: tuple[Head, ...] | None = None
    """Attention heads that `recent` is about; none: those that follow the audio best; None: it says no share."""

    @abstractmethod
    def committed(self, session: Session, output: Output) -> int:
        """How many tokens of `output` are committed after this step, `session.committed` of them before it."""

    def prefix_length(self, session: Session) -> int:
        """How many of the session's tokens the next step must keep; what is committed, unless a policy says less."""
        return session.committed

    def shown(self, session: Session, output: Output, committed: int) -> int:
        """How many tokens of `output` are shown; all of them, also those that may be taken back."""
        return len(output)

    def confidence(self, session: Session) -> float | None:
        """Probability below which the model stops before a token; None lets it say what it will."""
        return None

    def recent(self, session: Session) -> float | None:
        """Last share of the audio to which the model must not attend most for a token; None lets it say what it will.

        A policy that says a share has `heads`, too.
        """
        return None

    def enough(self, session: Session, decode: Decode) -> Callable[[Sequence[int]], bool] | None:
        """A test of the new tokens after each one, which ends the step; None lets the model go on."""
        return None

    def cell(self) -> dict[str, Any]:
        """What tells cells of this policy apart in scores.json: `rollback` (None: has none) and `parameters`."""
        return {"rollback": None, "parameters": {}}


@dataclass(frozen=True)
class Rollback(Policy):
    """Take back the last `rollback` tokens before every chunk (SimulSA, arXiv 2509.15692).

    c_i = max(c_{i−1}, |y_i| − b); without the floor the literal |y_i| − b, so that a shorter continuation takes back
    more. The end of turn is no token here.
    """

    rollback: int
    floor: bool = True
    name: ClassVar[str] = "rollback"

    def committed(self, session: Session, output: Output) -> int:
        """|y_i| − b, not below what was committed before."""
        return max(session.committed if self.floor else 0, len(output) - self.rollback)

    def cell(self) -> dict[str, Any]:
        """Rollback, and the literal form where it is chosen."""
        return {"rollback": self.rollback, "parameters": {} if self.floor else {"rollback_floor": False}}


@dataclass(frozen=True)
class Offline(Policy):
    """Hear the whole utterance, then write: its only step is the last one."""

    name: ClassVar[str] = "offline"

    def committed(self, session: Session, output: Output) -> int:
        """Everything."""
        return len(output)


class AppendOnly(Policy):
    """A policy that shows only what is committed, so that nothing on the screen ever changes."""

    def shown(self, session: Session, output: Output, committed: int) -> int:
        """What is committed."""
        return committed


@dataclass(frozen=True)
class Confidence(AppendOnly):
    """Stop before the first token that the model gives less than `threshold`.

    A token is committed when each of the `window` tokens that begin with it has at least that much: 1 commits whatever
    was said, more withholds the last of it, which may already lead to what the model is unsure of.
    """

    threshold: float
    window: int = 1
    name: ClassVar[str] = "confidence"

    def committed(self, session: Session, output: Output) -> int:
        """All but the last `window` − 1 tokens, not below what was committed before."""
        return max(session.committed, len(output) - (self.window - 1))

    def confidence(self, session: Session) -> float:
        """The threshold."""
        return self.threshold

    def cell(self) -> dict[str, Any]:
        """The threshold, and the window where it is longer than a token."""
        window = {"confidence_window": self.window} if self.window > 1 else {}
        return {"rollback": 0, "parameters": {"confidence_threshold": self.threshold, **window}}


@dataclass(frozen=True)
class HoldN(AppendOnly):
    """Withhold the last `hold_n` tokens of every output until the next (Liu et al. 2020, Interspeech).

    As rollback commits, but what is withheld is not shown.
    """

    hold_n: int
    name: ClassVar[str] = "hold_n"

    def committed(self, session: Session, output: Output) -> int:
        """All but the last n tokens, not below what was committed before."""
        return max(session.committed, len(output) - self.hold_n)

    def cell(self) -> dict[str, Any]:
        """How many tokens."""
        return {"rollback": None, "parameters": {"hold_n": self.hold_n}}


@dataclass(frozen=True)
class LocalAgreement(AppendOnly):
    """Commit what the last `agreement_n` outputs begin with alike (Liu et al. 2020; Polák et al. 2022, IWSLT)."""

    agreement_n: int = 2
    name: ClassVar[str] = "local_agreement"

    def committed(self, session: Session, output: Output) -> int:
        """The longest common prefix of this output and the n − 1 before it; nothing new while there are fewer."""
        before = session.outputs[len(session.outputs) - (self.agreement_n - 1) :]
        if len(session.outputs) < self.agreement_n - 1:
            return session.committed
        together = zip(output.token_ids, *before, strict=False)
        agreed = next((n for n, tokens in enumerate(together) if len(set(tokens)) > 1), None)
        return min(map(len, [output.token_ids, *before])) if agreed is None else agreed

    def cell(self) -> dict[str, Any]:
        """How many outputs."""
        return {"rollback": None, "parameters": {"agreement_n": self.agreement_n}}


@dataclass(frozen=True)
class AgreementOrConfidence(LocalAgreement):
    """Commit what local agreement does, and from there on as long as tokens were said with `threshold` or more.

    A token that the model is sure of need not wait for the next output to say it again, as WhisperLiveKit's
    `confidence_validation` has it for words; the agreement of outputs makes up for thresholds that are too high.
    """

    threshold: float = 0.9
    name: ClassVar[str] = "agreement_or_confidence"

    def committed(self, session: Session, output: Output) -> int:
        """At least what was committed before: earlier outputs may disagree with a token of which the model was sure."""
        count = max(session.committed, super().committed(session, output))
        return count + sum(1 for _ in takewhile(lambda one: one >= self.threshold, output.probabilities[count:]))

    def cell(self) -> dict[str, Any]:
        """How many outputs, and the threshold."""
        parameters = {"agreement_n": self.agreement_n, "confidence_threshold": self.threshold}
        return {"rollback": None, "parameters": parameters}


@dataclass(frozen=True)
class Attention(AppendOnly):
    """Stop before the first token for which the model attends most to the last `recent_ms` of what it has heard.

    AlignAtt (Papi et al. 2023, arXiv 2305.11408), for decoder-only models (arXiv 2605.31432, 2606.03967).
    """

    recent_ms: int
    heads: tuple[Head, ...] = ()
    name: ClassVar[str] = "attention"

    def committed(self, session: Session, output: Output) -> int:
        """Everything."""
        return len(output)

    def recent(self, session: Session) -> float:
        """The milliseconds, as a share of the audio that the step hears."""
        return self.recent_ms * SAMPLES_PER_MS / session.due_samples

    def cell(self) -> dict[str, Any]:
        """The milliseconds."""
        return {"rollback": None, "parameters": {"attention_ms": self.recent_ms}}


@dataclass(frozen=True)
class WaitK(AppendOnly):
    """Hear `wait_k` chunks, then write one word for every chunk (Ma et al. 2019, arXiv 1810.08398).

    A word is whole when the next one begins or the answer ends. Where the latency unit is `char`, words are characters.
    """

    wait_k: int
    unit: str = "word"
    name: ClassVar[str] = "wait_k"

    def enough(self, session: Session, decode: Decode) -> Callable[[Sequence[int]], bool]:
        """One word more than may be written shows that the last of those is whole."""
        kept, limit = session.token_ids[: self.prefix_length(session)], self._allowed(session) + (self.unit == "word")
        return lambda new: self._count(decode((*kept, *new))) >= limit

    def committed(self, session: Session, output: Output) -> int:
        """The tokens of the words that may stand."""
        allowed, count = self._allowed(session), len(output)
        while count > session.committed and self._count(output.text(count)) > allowed:
            count -= 1
        return count

    def cell(self) -> dict[str, Any]:
        """k, in chunks."""
        return {"rollback": None, "parameters": {"wait_k": self.wait_k}}

    def _allowed(self, session: Session) -> int:
        """Words that may stand after the step that is due."""
        return max(0, len(session.steps) + 2 - self.wait_k)

    def _count(self, text: str) -> int:
        return len(text.split()) if self.unit == "word" else len(text.strip().rstrip(REPLACEMENT))


@dataclass(frozen=True)
class Retranslation(Policy):
    """Translate anew at every chunk, and commit nothing before the end (Arivazhagan et al. 2020, arXiv 1912.03393)."""

    name: ClassVar[str] = "retranslation"

    def committed(self, session: Session, output: Output) -> int:
        """Nothing."""
        return 0

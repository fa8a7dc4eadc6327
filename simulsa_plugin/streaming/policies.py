"""Policies: what is forced at a step, and what is committed after it. Small classes over explicit session state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from simulsa_plugin.streaming.session import Session


class Policy(Protocol):
    """Decides the forced prefix of a step and how much of its result is committed."""

    @property
    def name(self) -> str:
        """The policy's name in scores.json."""
        ...

    def prefix_length(self, session: Session) -> int:
        """How many of the session's tokens the next step must keep."""
        ...

    def committed(self, session: Session, num_tokens: int, finished: bool) -> int:
        """How many of `num_tokens` tokens are committed after a step."""
        ...

    def cell(self) -> dict[str, Any]:
        """The policy's fields in scores.json: rollback and parameters."""
        ...


@dataclass(frozen=True)
class Rollback:
    """Take back the last `rollback` tokens before every chunk (SimulSA, arXiv 2509.15692).

    c_i = max(c_{i−1}, |y_i| − b); without the floor the literal |y_i| − b, so that a shorter continuation takes back
    more. The end of turn is no token here, and the last step commits everything.
    """

    rollback: int
    floor: bool = True
    name: str = field(default="rollback", init=False)

    def prefix_length(self, session: Session) -> int:
        """What is committed stays."""
        return session.committed

    def committed(self, session: Session, num_tokens: int, finished: bool) -> int:
        """|y_i| − b, not below what was committed before."""
        if finished:
            return num_tokens
        return max(session.committed if self.floor else 0, num_tokens - self.rollback)

    def cell(self) -> dict[str, Any]:
        """Rollback, and the literal form where it is chosen."""
        return {"rollback": self.rollback, "parameters": {} if self.floor else {"rollback_floor": False}}


@dataclass(frozen=True)
class Offline:
    """Hear the whole utterance, then write."""

    name: str = field(default="offline", init=False)

    def prefix_length(self, session: Session) -> int:
        """Nothing was written before."""
        return 0

    def committed(self, session: Session, num_tokens: int, finished: bool) -> int:
        """Everything."""
        return num_tokens

    def cell(self) -> dict[str, Any]:
        """No rollback."""
        return {"rollback": None, "parameters": {}}

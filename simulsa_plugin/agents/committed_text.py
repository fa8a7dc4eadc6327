"""What a tool is told of a stream when its output can only grow: units that are complete and committed."""

from __future__ import annotations

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.live.transcript import TextFollower


class CommittedText:
    """The committed text of a stream, told once.

    Attributes:
        taken_back: units that the policy took back after they had been told: they stay in the output.
    """

    def __init__(self, engine: LiveEngine, stream: LiveStream) -> None:
        self.taken_back = 0
        self._engine, self._stream = engine, stream
        self._follower = TextFollower(only_committed=True)
        self._committed = self._told = 0  # units

    def push(self, waveform: Waveform, *, final: bool = False) -> str:
        """Take the next audio, and compute the steps that are due with it.

        Args:
            waveform: (num_samples,) at 16 kHz.
            final: the stream ends with it, and everything is committed.

        Returns:
            the text that follows what was told before; empty where there is nothing new.

        Raises:
            SimulsaError: of the policy or the model.
        """
        self._stream.push(waveform, final=final)
        while self._stream.due_steps:
            self._engine.advance(self._stream).result()
        change = self._follower.change(self._stream.transcript)
        kept = self._committed - len(change.deleted)
        new = change.added[self._told - kept :]
        self.taken_back += len(change.deleted)
        self._committed = kept + len(change.added)
        self._told += len(new)
        return self._stream.transcript.separator.join(new)

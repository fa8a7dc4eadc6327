"""An agent for SimulEval: `simuleval --agent-class simulsa_plugin.agents.SimulEvalAgent --recipe my_recipe.yaml …`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

from simulsa_plugin.agents.committed_text import CommittedText
from simulsa_plugin.agents.simuleval_options import check_languages, check_unit, segment_warning
from simulsa_plugin.api.live_system import open_live_system
from simulsa_plugin.audio.samples import Waveform, average_channels
from simulsa_plugin.audio.stream_resampling import StreamResampler
from simulsa_plugin.errors import MissingExtraError, SimulsaError
from simulsa_plugin.terminal import printable

try:
    from simuleval.agents import Action, AgentStates, ReadAction, SpeechToTextAgent, WriteAction
    from simuleval.data.segments import Segment
except ImportError as error:
    raise MissingExtraError(
        f"simulsa_plugin.agents.SimulEvalAgent needs SimulEval 1.1 ({error}). Install it without its pins, which this "
        "project's dependencies contradict: pip install --no-deps simuleval==1.1.4 textgrid tornado"
    ) from error

logger = logging.getLogger(__name__)


class StreamStates(AgentStates):  # type: ignore[misc]  # SimulEval has no types
    """SimulEval's states of an utterance, with its stream.

    Attributes:
        text: of the stream; None before its first audio.
        resampler: to 16 kHz, likewise.
        num_taken: samples of `source` that the stream has got.
    """

    def reset(self) -> None:
        """Forget the utterance."""
        super().reset()
        self.text: CommittedText | None = None
        self.resampler: StreamResampler | None = None
        self.num_taken = 0

    @property
    def language(self) -> str | None:
        """The target language of `--tgt-lang`; SimulEval's default is a type, not None."""
        return self.tgt_lang if isinstance(self.tgt_lang, str) else None

    def take_audio(self) -> Waveform:
        """Return the audio that has arrived since the last call, (num_samples,), of one channel, at SimulEval's rate.

        SimulEval hands samples as the file has them: numbers, or a list of numbers where there are several channels.
        """
        new = np.asarray(self.source[self.num_taken :], dtype=np.float32)
        self.num_taken = len(self.source)
        return average_channels(new) if new.ndim == 2 else new


class SimulEvalAgent(SpeechToTextAgent):  # type: ignore[misc]  # SimulEval has no types
    """Decodes with the model and the one streaming cell of a recipe, and writes what the policy commits.

    It is stateless in SimulEval's sense: all that belongs to an utterance is in its states, so that several can be
    decoded in turns.
    """

    def __init__(self, args: Namespace) -> None:
        """Load the model.

        Args:
            args: of SimulEval's command line, see `add_args`.

        Raises:
            SimulsaError: see `open_live_system`; or SimulEval's options do not fit the recipe.
        """
        self.system = open_live_system(args.recipe, args.keys, single_point=True)
        super().__init__(args)
        # With SimulEval's --system-dir there are no arguments but the agent's own.
        check_unit(self.system.settings.latency_unit, getattr(args, "eval_latency_unit", None))
        chunk_ms = self.system.points[self.system.default_point].chunk_ms
        _warn(segment_warning(chunk_ms, getattr(args, "source_segment_size", None)))
        _warn(check_languages(self.system.prompts, getattr(args, "tgt_lang", None)))

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Add the agent's arguments."""
        parser.add_argument(
            "--recipe",
            metavar="RECIPE.yaml",
            help="a LLaMA-Factory recipe with simulsa_* keys, as for simulsa-eval (default: the embedded model)",
        )
        parser.add_argument(
            "--keys",
            nargs="+",
            default=[],
            metavar="key=value",
            help="override keys of the recipe; simulsa_cells=CELL chooses one of several cells",
        )

    @classmethod
    def from_args(cls, args: Namespace) -> SimulEvalAgent:
        """Make the agent for SimulEval's command line; a user's mistake ends it with one line."""
        try:
            return cls(args)
        except SimulsaError as error:
            print(f"simulsa_plugin: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error

    def build_states(self) -> StreamStates:
        """Return the states of an utterance."""
        return StreamStates()

    def policy(self, states: StreamStates) -> Action:
        """Compute the steps that are due, and write what is committed; everything when the source has ended."""
        waveform, finished = states.take_audio(), bool(states.source_finished)
        text = ""
        if states.num_taken:
            text = self._translate(states, waveform, finished)
        if finished and states.text is not None and states.text.taken_back:
            _warn(
                f"{states.text.taken_back} units of an utterance were taken back after they had been written: "
                "SimulEval's output keeps them, and differs from that of simulsa-eval."
            )
        return WriteAction(text, finished=finished) if text or finished else ReadAction()

    def pop(self, states: StreamStates | None = None) -> Segment:
        """Return what SimulEval sends on; its service cannot send a segment whose language is not set."""
        segment = super().pop(states)
        segment.tgt_lang = (states or self.states).language
        return segment

    def to(self, device: str, *args: Any, fp16: bool = False, **kwargs: Any) -> None:
        """Leave the model where LLaMA-Factory put it."""
        if fp16 or device != "cpu":  # SimulEval's default
            found = self.system.model.hardware()
            _warn(
                f"--device and --fp16 are not used: LLaMA-Factory has put the model on {found['device']} in "
                f"{found['dtype']}. CUDA_VISIBLE_DEVICES chooses devices; the checkpoint decides the precision."
            )

    def _translate(self, states: StreamStates, waveform: Waveform, finished: bool) -> str:
        if states.text is None or states.resampler is None:
            stream = self.system.new_stream(target_language=states.language)
            states.text = CommittedText(self.system.engine, stream)
            states.resampler = StreamResampler(states.source_sample_rate)
        return states.text.push(states.resampler.push(waveform, final=finished), final=finished)


def _warn(message: str | None) -> None:
    if message is not None:
        logger.warning(message)

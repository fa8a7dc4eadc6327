"""Inputs and outputs of a model: prompts, samples, generation requests, scores, continuations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from simulsa_plugin.segments import ReferenceSegment

Message = dict[str, str]
AttentionHead = tuple[int, int]  # (layer, head within the layer), both from 0
_CAUSES = {
    "several_answers": "the row has several answers (ranking or KTO pairs), which supervised training does not use",
    "no_answer": "the row has no user turn, or no answer",
    "multi_turn": "the row has several turns; one question about one audio file can be cut",
    "tools": "the row has tools, or turns other than user and assistant",
    "other_media": "the row has images or videos besides audio",
    "no_audio": "the row has no audio",
    "audio_not_a_path": "the row's audio is not the path of a file",
    "not_text": "a turn is not text",
    "not_one_audio": "<audio> does not occur exactly once in the user's turn, or there is not exactly one file",
    "empty_reference": "the answer is empty",
}


@dataclass(frozen=True)
class Prompt:
    """Prompt of one sample, as LLaMA-Factory represents it.

    Attributes:
        messages: turns with `role` and `content`, the last one the user's; `<audio>` occurs once.
        system: system prompt; empty for the template's default.
        tools: tool description; usually empty.
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: str = ""


@dataclass(frozen=True)
class Sample:
    """One usable row of an offline dataset: a prompt about one audio file, and its reference translation.

    Attributes:
        source_id: the row's `id` in the dataset's file, if it has one.
        segments: reference segments of a long recording, by offset; empty where the row is one utterance.
    """

    row: int
    prompt: Prompt
    reference: str
    audio: str
    source_id: str | None = field(default=None, compare=False)
    segments: tuple[ReferenceSegment, ...] = ()


@dataclass(frozen=True)
class UnusableRow:
    """A row that cannot be augmented or evaluated, with the short reason written to skipped.jsonl.

    Attributes:
        audio: its audio, if that is a path.
        source_id: as in `Sample`.
    """

    row: int
    reason: str
    audio: str | None = field(default=None, compare=False)
    source_id: str | None = field(default=None, compare=False)

    @property
    def cause(self) -> str:
        """Explanation of the reason, a clause."""
        return _CAUSES.get(self.reason, "")


def advice_on_audio(reasons: Iterable[str]) -> str:
    """Return the next step where nothing can be used and some audio is missing, with a space before it; else nothing.

    >>> advice_on_audio(["audio_missing"]), advice_on_audio(["too_short"])
    (' Correct its path: a relative one starts at media_dir, or at dataset_dir without it.', '')
    """
    missing = "audio_missing" in reasons
    return " Correct its path: a relative one starts at media_dir, or at dataset_dir without it." if missing else ""


@dataclass(frozen=True)
class RenderedReference:
    """Token ids of prompt and reference, as training would see them.

    Attributes:
        prompt_ids: everything before the reference, audio tokens included.
        content_ids: tokens of the reference, without the end of turn.
        char_ends: characters of the reference complete after each token; None inside a character.
    """

    prompt_ids: tuple[int, ...]
    content_ids: tuple[int, ...]
    char_ends: tuple[int | None, ...]


@dataclass(frozen=True)
class ReferenceScores:
    """Teacher-forced scores of a reference, natural logarithms over the full softmax in fp32.

    Attributes:
        logprobs: of each content token.
        greedy: the argmax id at each content position.
        margins: of each content token, its log-probability minus that of the best other token; ≥ 0 for the argmax.
        eos_logprob: of the template's end of turn after the whole reference.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[int, ...]
    margins: tuple[float, ...]
    eos_logprob: float


@dataclass(frozen=True)
class GenerationRequest:
    """Greedy generation of one answer, with its stopping rules.

    Attributes:
        prefix: tokens that the answer is forced to begin with.
        draft: tokens that probably follow, such as the previous output. Correct ones save decode steps; the result does
            not depend on them.
        min_token_probability: stop before the first token that is less probable; None for no limit.
        min_audio_ahead: stop before the first token whose most attended position has less than this share of the audio
            (0 to 1) after it, as in AlignAtt; None for no limit. Needs `AudioLanguageModel.set_alignment_heads`.
        stopping_criterion: called with the new tokens after each one; True ends the answer after it.
        max_new_tokens: maximum; an answer that reaches it is truncated.
    """

    prefix: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    min_token_probability: float | None = None
    min_audio_ahead: float | None = None
    stopping_criterion: Callable[[Sequence[int]], bool] | None = None
    max_new_tokens: int = 256

    def stops_before(self, probability: float, audio_ahead: float) -> bool:
        """Return whether the answer ends before a token.

        Args:
            probability: of the token.
            audio_ahead: share of the audio after the position that the model attends to most.
        """
        improbable = self.min_token_probability is not None and probability < self.min_token_probability
        return improbable or (self.min_audio_ahead is not None and audio_ahead < self.min_audio_ahead)


@dataclass(frozen=True)
class Continuation:
    """Generated tokens after a forced prefix.

    Attributes:
        token_ids: without the end of turn.
        truncated: generation stopped at `max_new_tokens`.
        probabilities: of each token, over the full softmax in fp32. Their last digits may depend on the batch.
    """

    token_ids: tuple[int, ...]
    truncated: bool
    probabilities: tuple[float, ...] = field(default=(), compare=False)

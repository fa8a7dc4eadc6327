"""What goes to a model and comes back: prompts, samples, requests, scores, continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Message = dict[str, str]
Head = tuple[int, int]  # (layer, attention head in it), counted from 0
_CAUSES = {
    "several_answers": "the row has several answers (ranking or KTO pairs), of which supervised training takes none",
    "no_answer": "the row has no user turn, or no answer",
    "multi_turn": "the row has several turns; one question about one audio file can be cut",
    "tools": "the row has tools, or turns other than user and assistant",
    "other_media": "the row has images or videos besides audio",
    "no_audio": "the row names no audio",
    "audio_not_a_path": "the row's audio is not the path of a file",
    "not_text": "a turn is not text",
    "not_one_audio": "<audio> does not stand exactly once in the user's turn, or not for exactly one file",
    "empty_reference": "the answer is empty",
}


@dataclass(frozen=True)
class Prompt:
    """The prompt side of one sample, as LLaMA-Factory holds it.

    Attributes:
        messages: turns with `role` and `content`, the last one the user's; `<audio>` stands once.
        system: system prompt; empty means the template's own.
        tools: tool description; mostly empty.
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: str = ""


@dataclass(frozen=True)
class Sample:
    """One usable row of an offline dataset: a prompt about one audio file, and its reference translation.

    Attributes:
        source_id: what the dataset's own file calls the row (`id`), if it does.
    """

    row: int
    prompt: Prompt
    reference: str
    audio: str
    source_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class UnusableRow:
    """A row that cannot be augmented or evaluated, with the short reason written to skipped.jsonl.

    Attributes:
        audio: what it names as its audio, if that is a path.
        source_id: as in `Sample`.
    """

    row: int
    reason: str
    audio: str | None = field(default=None, compare=False)
    source_id: str | None = field(default=None, compare=False)

    @property
    def cause(self) -> str:
        """The reason in a sentence."""
        return _CAUSES.get(self.reason, "")


@dataclass(frozen=True)
class RenderedReference:
    """Token ids of prompt and reference, as training would see them.

    Attributes:
        prompt_ids: everything before the reference, audio tokens included.
        content_ids: the reference's own tokens; no end of turn.
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
class Request:
    """One answer to be continued.

    Attributes:
        prefix: tokens that it must begin with.
        draft: a guess of what follows, such as what was said before less audio was heard. It saves time where it is
            right, and never changes the result.
        confidence: stop before the first token whose probability is below this; None never does.
        recent: stop before the first token at which the attention to the audio is highest within this last share of
            it (0 to 1); None never does. The model must have been told of heads before.
        enough: told the new tokens after each one; True ends the answer there.
        max_new_tokens: limit; reaching it is no end of turn.
    """

    prefix: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    confidence: float | None = None
    recent: float | None = None
    enough: Callable[[Sequence[int]], bool] | None = None
    max_new_tokens: int = 256

    def stops(self, probability: float, unheard: float) -> bool:
        """Whether the answer ends before a token that would be said with this `probability`.

        Args:
            probability: of the token.
            unheard: share of the audio that lies behind the place to which the model attends most.
        """
        unsure = self.confidence is not None and probability < self.confidence
        return unsure or (self.recent is not None and unheard < self.recent)


@dataclass(frozen=True)
class Continuation:
    """What follows a forced prefix.

    Attributes:
        token_ids: without the end of turn.
        truncated: the limit on new tokens came first.
        probabilities: of each token, over the full softmax in fp32. Another batch may change their last digits.
    """

    token_ids: tuple[int, ...]
    truncated: bool
    probabilities: tuple[float, ...] = field(default=(), compare=False)

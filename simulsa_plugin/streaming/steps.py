"""One step of a session: the request to the model, and what of its answer the policy shows and commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import UsageError
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Continuation, GenerationRequest, Prompt
from simulsa_plugin.streaming.loops import find_loop
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.session import Arrival, ChunkSchedule, Output, Session
from simulsa_plugin.streaming.windows import SlidingWindow, slide


class SessionSource(Protocol):
    """What the steps of a session need of its utterance."""

    @property
    def prompt(self) -> Prompt:
        """About the utterance."""
        ...

    @property
    def window(self) -> SlidingWindow | None:
        """How the utterance is decoded in windows, and loops are cut; None decodes it as one, as it comes."""
        ...

    def heard_by(self, session: Session) -> Waveform:
        """Return what the next step of a session hears, (num_samples,)."""
        ...


@dataclass(frozen=True)
class StreamSource:
    """One utterance to decode.

    Attributes:
        prompt: about the utterance.
        waveform: (num_samples,) at 16 kHz.
        arrivals: gives the arrivals of all steps for a chunk in ms (None for offline), where the utterance is part of
            a longer recording.
        window: how the utterance is decoded in windows, and loops are cut; None decodes it as one, as it comes.
    """

    prompt: Prompt
    waveform: Waveform
    arrivals: Callable[[int | None], Sequence[Arrival]] | None = None
    window: SlidingWindow | None = None

    def new_session(self, utterance: int, setting: int, chunk_ms: int | None) -> Session:
        """Return a session that has received nothing yet."""
        whole = ChunkSchedule(len(self.waveform), chunk_ms)
        return Session(utterance, setting, whole if self.arrivals is None else self.arrivals(chunk_ms))

    @property
    def first_window(self) -> Waveform:
        """The first audio that fits into the window, (num_samples,); all of it without windows."""
        return self.waveform if self.window is None else self.waveform[: self.window.samples]

    def heard_by(self, session: Session) -> Waveform:
        """Return what the next step of a session hears, (num_samples,)."""
        return self.waveform[session.window_start : session.due_samples]


@dataclass(frozen=True)
class NextStep:
    """The next step of a session, to be computed."""

    session: Session
    source: SessionSource
    policy: Policy


@dataclass(frozen=True)
class BatchLimits:
    """Limits on the size of a batch.

    Attributes:
        max_new_tokens: per step and session.
        batch_size: in sessions.
        memory_bytes: of keys, values and logits, if every session were as long as the longest one and reached
            `max_new_tokens`; and of the audio encoder and its features, beside the sessions that are being decoded
            then. A batch of one is always allowed.
    """

    max_new_tokens: int = 256
    batch_size: int = 64
    memory_bytes: float = 4e9


def decoding_bytes(model: AudioLanguageModel, sessions: int, tokens: int) -> int:
    """Return the approximate peak memory to decode sessions that may reach so many tokens each, prompts included."""
    return sessions * (tokens * model.bytes_per_token + model.bytes_per_session)


def advance_sessions(
    model: AudioLanguageModel,
    steps: Sequence[NextStep],
    encode: Callable[[Sequence[NextStep]], Sequence[Any]],
    limits: BatchLimits,
    stop_clock: Callable[[], float] | None = None,
) -> None:
    """Advance sessions by one step each, in one batch.

    Args:
        model: generates greedily after forced prefixes.
        steps: of different sessions.
        encode: returns the encoded prompt of each step, as `AudioLanguageModel.encode_prompts` does.
        limits: of the new tokens; the batch is taken as it is.
        stop_clock: returns the milliseconds that the batch took, where they are measured.

    Raises:
        UsageError: a policy returns counts that are not allowed.
        ModelError: the batch does not fit into memory.
    """
    _, decoded = advance_short(steps)
    if not decoded:
        return
    requests = [generation_request(step, model, limits) for step in decoded]
    continuations = model.generate(encode(decoded), requests)
    for step, request, continuation in zip(decoded, requests, continuations, strict=True):
        complete(step, model, request, continuation, stop_clock)


def advance_short(steps: Iterable[NextStep]) -> tuple[list[NextStep], list[NextStep]]:
    """Complete the steps whose audio is too short to be decoded; return these, and the others."""
    short: list[NextStep] = []
    decoded: list[NextStep] = []
    for step in steps:
        (short if step.session.too_short_to_decode else decoded).append(step)
    for step in short:
        step.session.advance_without_decoding()
    return short, decoded


def encode_heard(model: AudioLanguageModel, steps: Sequence[NextStep]) -> list[Any]:
    """Encode the prompts of steps with what they hear, in one batch."""
    waveforms = [step.source.heard_by(step.session) for step in steps]
    prompts = [
        model.render_prompt(step.source.prompt, waveform) for step, waveform in zip(steps, waveforms, strict=True)
    ]
    return model.encode_prompts(prompts, waveforms)


def generation_request(step: NextStep, model: AudioLanguageModel, limits: BatchLimits) -> GenerationRequest:
    """Return the request of a session's next step; the part of the last output that is not forced is its draft."""
    session, policy = step.session, step.policy
    length = max(policy.prefix_length(session), session.forced)
    if not 0 <= length <= len(session.token_ids):
        raise _policy_error(policy, f"keeps {length} of {len(session.token_ids)} tokens that were shown")
    previous = session.outputs[-1] if session.outputs else ()
    prefix = session.token_ids[:length]
    draft = previous[length:] if previous[:length] == prefix else ()
    if session.commits_all:
        return GenerationRequest(prefix, draft, max_new_tokens=limits.max_new_tokens)
    return GenerationRequest(
        prefix,
        draft,
        policy.min_token_probability(session),
        policy.min_audio_ahead(session),
        policy.stopping_criterion(session, model.decode),
        limits.max_new_tokens,
    )


def complete(
    step: NextStep,
    model: AudioLanguageModel,
    request: GenerationRequest,
    continuation: Continuation,
    stop_clock: Callable[[], float] | None = None,
) -> None:
    """Complete a step with the model's answer."""
    output = _make_output(step.source, model, request, step.session.probabilities, continuation)
    _apply_policy(step.session, step.policy, output, stop_clock)


def _make_output(
    source: SessionSource,
    model: AudioLanguageModel,
    request: GenerationRequest,
    probabilities: tuple[float, ...],
    continuation: Continuation,
) -> Output:
    """Return prefix and continuation; of a long recording without repetitions, except those that are forced."""
    forced = len(request.prefix)
    token_ids = request.prefix + continuation.token_ids
    probabilities = probabilities[:forced] + continuation.probabilities
    loop = None if source.window is None else find_loop(token_ids)
    if loop is None:
        return Output(token_ids, model.decode, continuation.truncated, probabilities)
    kept = max(forced, loop)
    return Output(token_ids[:kept], model.decode, False, probabilities[:kept], looping=True)


def _apply_policy(
    session: Session, policy: Policy, output: Output, stop_clock: Callable[[], float] | None = None
) -> None:
    """Complete a step with what the policy shows and commits; the last step shows and commits everything."""
    committed = shown = len(output)
    if not session.commits_all:
        committed = policy.committed(session, output)
        shown = policy.shown(session, output, committed)
        are_counts = isinstance(committed, int) and isinstance(shown, int)
        if not are_counts or not 0 <= committed <= shown <= len(output):
            raise _policy_error(policy, f"commits {committed!r} and shows {shown!r} of {len(output)} tokens")
    session.advance(output, shown, committed, stop_clock() if stop_clock else None)


def slide_window(step: NextStep, model: AudioLanguageModel) -> None:
    """Let audio leave the window of a session that has completed a step, where it is full."""
    if step.source.window is not None:
        slide(step.session, step.source.window, model.decode)


def _policy_error(policy: Policy, what: str) -> UsageError:
    return UsageError(
        f"The policy {policy.name} {what}; allowed: 0 ≤ committed ≤ shown ≤ all tokens, and 0 ≤ kept ≤ shown before."
    )

"""What scoring and decoding cost: operations and bytes from sizes alone, and seconds on a machine.

A matrix of P numbers takes 2 · P FLOP for each position, and attention 4 · layers · width FLOP for each pair of a query
and a key (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, without its factor for causality: transformers computes
masked pairs). Passes over many tokens are limited by FLOP; a decode step has one token per row, and is limited by
reading weights, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEPS_PER_TOKEN = 1.6  # decode steps for the mean of new tokens and a full batch, on the embedded test set
DECODING_ROWS = 0.28  # rows that decode at once over the sessions of a batch: sessions share rows
ASSUMED_SHARE = 0.4  # of the measured rates that whole runs reach; see docs/cost.md


@dataclass(frozen=True)
class Layers:
    """Transformer layers.

    Attributes:
        parameters: numbers in their matrices; of mixtures of experts only those that one position meets.
        count: number of layers.
        width: of all queries together.
        kv_width: of all keys together, and of all values.
    """

    parameters: int
    count: int = 0
    width: int = 0
    kv_width: int = 0

    def flop(self, positions: float, keys: float | None = None) -> float:
        """Return the FLOP of one pass.

        Args:
            positions: of the pass.
            keys: that each attends to, itself included; by default `positions`.

        >>> Layers(parameters=100, count=2, width=8).flop(10)  # 2 · 100 · 10 + 4 · 2 · 8 · 10 · 10
        8400.0
        """
        pairs = positions * (positions if keys is None else keys)
        return 2.0 * self.parameters * positions + 4.0 * self.count * self.width * pairs


@dataclass(frozen=True)
class ModelSize:
    """Sizes of an audio-language model, known from its configuration.

    Attributes:
        parameters: in all, embeddings included.
        encoder: of the audio.
        language_model: without embeddings and output layer.
        output_parameters: of the output layer, V · width.
        dtype_bytes: bytes for each parameter.
        positions_per_second: of the encoder; 50 for Whisper's, whose positions are two frames of 10 ms.
        window_seconds: what the encoder always runs over; None where it runs over the audio alone.
    """

    parameters: int
    encoder: Layers
    language_model: Layers
    output_parameters: int
    dtype_bytes: int
    positions_per_second: float = 50.0
    window_seconds: float | None = None

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return float(self.parameters * self.dtype_bytes)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the keys and values of one token."""
        return 2.0 * self.language_model.count * self.language_model.kv_width * self.dtype_bytes

    def encoding_flop(self, seconds: float) -> float:
        """Return the FLOP of encoding one audio."""
        return self.encoder.flop((self.window_seconds or seconds) * self.positions_per_second)

    def step_bytes(self, cached_tokens: float) -> float:
        """Return what one decode step reads: weights, and keys and values of all rows' cached tokens together."""
        weights = (self.language_model.parameters + self.output_parameters) * self.dtype_bytes
        return weights + cached_tokens * self.bytes_per_token


@dataclass(frozen=True)
class Utterance:
    """What the cost of an utterance depends on.

    Attributes:
        seconds: of audio.
        text_tokens: of the prompt, without audio tokens.
        audio_tokens: of the whole audio.
        answer_tokens: of the reference.
    """

    seconds: float
    text_tokens: float
    audio_tokens: float
    answer_tokens: float

    def heard(self, seconds: float) -> Utterance:
        """Return the utterance when only this much of it has been received; the answer grows with the audio."""
        share = seconds / self.seconds
        return Utterance(seconds, self.text_tokens, share * self.audio_tokens, share * self.answer_tokens)

    @property
    def prompt_tokens(self) -> float:
        """Tokens before the answer."""
        return self.text_tokens + self.audio_tokens


@dataclass(frozen=True)
class Machine:
    """Rates of a device in one number format, and which share of them whole runs reach.

    Attributes:
        flop_per_second: of a large matrix product.
        bytes_per_second: that a large copy reads and writes, both counted.
        flop_share: of the first that is reached.
        bandwidth_share: of the second.
        name: of the device.
    """

    flop_per_second: float
    bytes_per_second: float
    flop_share: float = ASSUMED_SHARE
    bandwidth_share: float = ASSUMED_SHARE
    name: str = "device"


@dataclass(frozen=True)
class Work:
    """What a run computes.

    Attributes:
        flop: of all passes but decode steps.
        decode_bytes: that decode steps read.
        decode_steps: how many, of whole batches.
    """

    flop: float = 0.0
    decode_bytes: float = 0.0
    decode_steps: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flop + other.flop,
            self.decode_bytes + other.decode_bytes,
            self.decode_steps + other.decode_steps,
        )

    def times(self, factor: float) -> Work:
        """Return this work so many times."""
        return Work(factor * self.flop, factor * self.decode_bytes, factor * self.decode_steps)

    def seconds(self, machine: Machine, devices: int = 1) -> float:
        """Return the seconds on so many devices, among which rows are shared out.

        >>> Work(flop=2e12, decode_bytes=1e12).seconds(Machine(1e12, 1e12, 0.5, 0.25), devices=2)
        4.0
        """
        passes = self.flop / machine.flop_per_second / machine.flop_share
        return (passes + self.decode_bytes / machine.bytes_per_second / machine.bandwidth_share) / devices


def scoring_work(size: ModelSize, clips: Iterable[Utterance]) -> Work:
    """Return the work of scoring the references of clips by teacher forcing, once each, padding not counted."""
    return Work(sum(_pass_flop(size, clip, clip.answer_tokens) for clip in clips))


def _pass_flop(size: ModelSize, clip: Utterance, answer_tokens: float) -> float:
    """Return the FLOP of encoding a clip and one pass over its prompt and an answer, with the answer's logits."""
    layers = size.language_model.flop(clip.prompt_tokens + answer_tokens)
    return size.encoding_flop(clip.seconds) + layers + 2.0 * size.output_parameters * (answer_tokens + 1)


def decoding_work(
    size: ModelSize, utterances: Iterable[Utterance], chunks: Sequence[float | None], batch_size: float
) -> Work:
    """Return the work of decoding utterances in cells, as `streaming.engine.decode_batched` does it.

    An utterance is encoded once for all sessions that have received equally much of it. One pass reads its prompt and
    what these sessions have shown before, which is taken to be the same; then each decode step of a batch gives every
    session one new token.

    Args:
        size: of the model.
        utterances: to decode.
        chunks: seconds of each cell, None for offline; one entry for each policy and its parameters.
        batch_size: sessions that are decoded together.
    """
    return sum((_utterance_work(size, one, chunks, batch_size) for one in utterances), Work())


def search_work(
    size: ModelSize,
    utterances: Sequence[Utterance],
    chunks: Sequence[float | None],
    rungs: Iterable[tuple[int, int]],
    batch_size: float,
) -> Work:
    """Return the work of decoding fewer and fewer cells on more and more utterances.

    Args:
        size: of the model.
        utterances: that are like those of the search.
        chunks: seconds of each cell at the beginning; those that are left are taken to be spread over all.
        rungs: numbers of cells, and of utterances on which each is decoded.
        batch_size: sessions that are decoded together.
    """
    total = Work()
    for cells, count in rungs:
        left = [chunks[number * len(chunks) // cells] for number in range(cells)]
        total += decoding_work(size, utterances, left, batch_size).times(count / len(utterances))
    return total


def _utterance_work(size: ModelSize, whole: Utterance, chunks: Sequence[float | None], batch_size: float) -> Work:
    steps = [_step_times(whole.seconds, chunk) for chunk in chunks]
    heard = [whole.heard(time) for time in sorted({time for times in steps for time in times})]
    passes = sum(_pass_flop(size, one, one.answer_tokens) for one in heard)
    return sum((_session_work(size, whole, times, batch_size) for times in steps), Work(passes))


def _step_times(seconds: float, chunk: float | None) -> list[float]:
    """Return how much audio each step has received.

    >>> _step_times(2.5, 1.0), _step_times(2.5, None)
    ([1.0, 2.0, 2.5], [2.5])
    """
    if chunk is None:
        return [seconds]
    whole = int(seconds / chunk)
    return [chunk * (step + 1) for step in range(whole)] + [seconds] * (whole * chunk < seconds)


def _session_work(size: ModelSize, whole: Utterance, times: Sequence[float], batch_size: float) -> Work:
    """Return the share of a session in the decode steps of its batches."""
    new_tokens = whole.answer_tokens / len(times) + 1  # the end of an answer is one as well
    steps = STEPS_PER_TOKEN * new_tokens / batch_size
    cached = [one.prompt_tokens + one.answer_tokens for one in map(whole.heard, times)]
    read = sum(size.step_bytes(DECODING_ROWS * batch_size * tokens) for tokens in cached)
    return Work(0.0, steps * read, steps * len(times))


def cost_lines(size: ModelSize, work: Work, machine: Machine | None) -> list[str]:
    """Describe a model, the work, and the time that it takes on a machine, in lines for people."""
    decoding = f", and decode steps that read {work.decode_bytes / 1e12:.3g} TB" if work.decode_steps else ""
    lines = [
        f"model: {size.parameters / 1e6:.1f} M parameters, {size.weight_bytes / 1e9:.2f} GB of weights; about "
        f"{work.flop / 1e12:.3g} TFLOP (2 · parameters · positions, and attention){decoding}"
    ]
    if machine is not None:
        lines.append(
            f"time: about {duration(work.seconds(machine))} on one {machine.name}; calculated from the size of the "
            f"model, not timed: it reaches {machine.flop_per_second / 1e12:.3g} TFLOP/s in a large matrix product and "
            f"{machine.bytes_per_second / 1e9:.3g} GB/s in a large copy, of which a run is assumed to reach "
            f"{shares(machine)} (docs/cost.md)"
        )
    return lines


def shares(machine: Machine) -> str:
    """Write the shares of a machine's rates.

    >>> shares(Machine(1e12, 1e12)), shares(Machine(1e12, 1e12, 0.5, 0.6))
    ('40%', '50% and 60%')
    """
    return " and ".join(dict.fromkeys(f"{share:.0%}" for share in (machine.flop_share, machine.bandwidth_share)))


def duration(seconds: float) -> str:
    """Write a duration with two significant digits.

    >>> duration(0.4), duration(75), duration(5400), duration(200_000), duration(2e7)
    ('0.4 s', '75 s', '1.5 h', '2.3 days', '231 days')
    """
    units = (("days", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 0.0))
    unit, length = next((unit, length) for unit, length in units if seconds >= 1.5 * length)
    number = seconds / (length or 1.0)
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.2g} {unit}"

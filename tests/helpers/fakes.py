"""A model and a dataset made of arithmetic, for tests in which no real model is the point."""

import contextlib
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulsa_plugin.audio.samples import SAMPLE_RATE, write_wav
from simulsa_plugin.errors import ModelError
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import write_json, write_jsonl
from simulsa_plugin.model.values import (
    Continuation,
    GenerationRequest,
    Prompt,
    ReferenceScores,
    RenderedReference,
    Sample,
    UnusableRow,
)

AUDIO_TOKEN = 1000
ASK = Prompt(({"role": "user", "content": "<audio>Translate."},))
TEXT = "guten Tag liebe Welt"


@dataclass
class ByteModel:
    """Tokens are UTF-8 bytes. It is sure of `sure_per_second` bytes of a reference for each second of audio.

    Scores also depend a little on the company in their batch, as in a real model: whoever batches differently after a
    restart is found out.
    """

    sure_per_second: float = 10.0
    window_seconds: float | None = None
    output_width: int = 256  # τ = 100 / 256 = 0.39
    batches_before_hanging: float = math.inf
    description: dict[str, Any] = field(default_factory=lambda: {"model": "bytes"})
    batches: list[int] = field(default_factory=list)
    device: str = "abacus"
    end_tokens: int = 1

    def describe(self):
        return dict(self.description)

    def hardware(self):
        return {"device": self.device}

    def render_prompt(self, prompt, waveform):
        if "unprintable" in prompt.messages[0]["content"]:
            raise ModelError("the template refuses the prompt")
        return (AUDIO_TOKEN,) * (len(waveform) // 640)

    def render(self, prompt, waveform, reference):
        encoded = reference.encode()
        ends = tuple(_characters(encoded[: count + 1]) for count in range(len(encoded)))
        return RenderedReference(self.render_prompt(prompt, waveform), tuple(encoded), ends)

    def count_tokens(self, prompt, waveform, reference):
        rendered = self.render(prompt, waveform, reference)
        return len(rendered.prompt_ids), len(rendered.content_ids)

    def score(self, rendered, waveforms):
        if len(self.batches) >= self.batches_before_hanging:
            threading.Event().wait()  # until it is killed
        self.batches.append(len(rendered))
        company = sum(len(one.prompt_ids) + len(one.content_ids) for one in rendered)
        return [self._score(one, waveform, company) for one, waveform in zip(rendered, waveforms, strict=True)]

    def _score(self, rendered, waveform, company):
        sure = int(self.sure_per_second * len(waveform) / SAMPLE_RATE)
        noise = 1e-9 * company + 1e-12 * float(np.abs(waveform).sum())
        logprobs = tuple(math.log(0.9 if i < sure else 0.01) - noise for i in range(len(rendered.content_ids)))
        greedy = tuple(token if i < sure else 0 for i, token in enumerate(rendered.content_ids))
        margins = tuple(math.log(9.0) if i < sure else -math.log(99.0) for i in range(len(rendered.content_ids)))
        return ReferenceScores(logprobs, greedy, margins, math.log(0.5) - noise)

    def unstable_prefixes(self, rendered, reference):
        return ()  # every text is its bytes

    def generate(self, prompts, requests):
        raise AssertionError("augmentation does not generate")

    def decode(self, token_ids):
        return bytes(token_ids).decode(errors="replace")


def _characters(encoded):
    try:
        return len(encoded.decode())
    except UnicodeDecodeError:
        return None


@dataclass
class ListDataset:
    """Rows given one by one: (reference, path of the audio), or the reason why a row is none."""

    name: str
    rows: list[tuple[str, str] | str]
    entry: dict[str, Any] = field(default_factory=lambda: {"file_name": "/somewhere/offline.jsonl"})
    relative: bool = False
    system: str = ""
    home: Path | None = None

    def __len__(self):
        return len(self.rows)

    def sample(self, row):
        if isinstance(self.rows[row], str):
            return UnusableRow(row, self.rows[row])
        reference, audio = self.rows[row]
        return Sample(row, Prompt(({"role": "user", "content": "<audio>Translate."},), self.system), reference, audio)

    def is_registered_in(self, folder):
        return folder == self.home

    def has_relative_audio(self):
        return self.relative

    def rewritten_entry(self):
        share = {key: self.entry[key] for key in ("num_samples",) if key in self.entry}
        return {**SHAREGPT_ENTRY, **share}

    def for_training(self, row):
        one = self.rows[row]
        return None, [] if isinstance(one, str) else [one[1]]

    def without(self, rows):
        return dict(SHAREGPT_ENTRY), (one for row, one in enumerate(self.sharegpt_rows()) if row not in rows)

    def sharegpt_rows(self):
        return [
            {
                "messages": [
                    {"role": "user", "content": "<audio>Translate."},
                    {"role": "assistant", "content": row[0]},
                ],
                "audios": [row[1]],
            }
            for row in self.rows
        ]


def write_noise(path, seconds, seed=0):
    """A WAV of white noise, exactly `seconds` long."""
    samples = np.random.default_rng(seed).integers(-3000, 3000, round(seconds * SAMPLE_RATE)).astype(np.int16)
    write_wav(Path(path), samples)
    return str(path)


def make_dataset(folder, count=40, name="toy"):
    """`count` rows of 0.6–8 s with references that hold umlauts and Chinese."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for row in range(count):
        seconds = 0.6 + 7.4 * (row * 7 % count) / count
        words = ["für", "Häuser", "Straße", "你好", "ok"]
        reference = " ".join(words[(row + i) % 5] for i in range(4 + row % 5))
        rows.append((reference, write_noise(Path(folder) / f"{row}.wav", seconds, seed=row)))
    return ListDataset(name, rows, entry={"file_name": str(Path(folder) / "offline.jsonl"), "formatting": "sharegpt"})


@dataclass
class ClockModel:
    """Says one byte of `text` for each `ms_per_byte` of audio heard, after whatever it was forced to begin with.

    With `regret`, the last byte it says before the end is a wrong one, so that rollback has something to take back.
    It says no end of turn: like every model behind the protocol, it stops.
    """

    text: str = TEXT
    ms_per_byte: float = 100.0
    regret: bool = False
    window_seconds: float | None = None
    output_width: int = 256
    bytes_per_token: int = 1
    bytes_per_session: int = 0
    bytes_per_sample: float = 0.0
    asked: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    drafts: list[tuple[int, ...]] = field(default_factory=list)
    read_samples: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    watched: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def describe(self):
        return {"model": "clock"}

    def render_prompt(self, prompt, waveform):
        if "unprintable" in prompt.messages[0]["content"]:
            raise ModelError("the template refuses the prompt")
        return (AUDIO_TOKEN,) * (len(waveform) // 16)

    def render(self, prompt, waveform, reference):
        raise AssertionError("evaluation does not score references")

    def score(self, rendered, waveforms):
        raise AssertionError("evaluation does not score references")

    def hardware(self):
        return {"device": "abacus"}

    def find_alignment_heads(self, prompts, waveforms):
        return tuple((0, len(waveform) // 16) for waveform in waveforms)

    def set_alignment_heads(self, heads):
        self.watched.append(heads)

    def encoding_bytes(self, num_samples):
        return self.bytes_per_sample * len(num_samples) * max(num_samples)

    def encode_prompts(self, prompts, waveforms):
        for prompt, waveform in zip(prompts, waveforms, strict=True):
            assert len(prompt) == len(waveform) // 16  # the prompt is about this audio
            self.read_samples.append(len(waveform))
        return [len(waveform) for waveform in waveforms]

    def generate(self, prompts, requests):
        self.batches.append(len(prompts))
        answers = []
        for samples, request in zip(prompts, requests, strict=True):
            self.asked.append((samples // 16, samples, request.prefix))
            self.drafts.append(request.draft)
            answer = self._answer(samples / 16, request.prefix, request.max_new_tokens)
            answers.append(self._stopped(answer, request, samples / 16))
        return answers

    def _answer(self, milliseconds, prefix, max_new_tokens):
        target = self.text.encode()
        said = target[: int(milliseconds / self.ms_per_byte)]
        if self.regret and 0 < len(said) < len(target):
            said = said[:-1] + b"?"
        fresh = said[len(prefix) :]
        return Continuation(tuple(fresh[:max_new_tokens]), truncated=len(fresh) > max_new_tokens)

    def _stopped(self, answer, request, milliseconds=math.inf):
        """It gives 0.5 to question mark and `l`, and is sure of all else. It looks at what it says."""
        for count, byte in enumerate(answer.token_ids):
            place = 1 - (len(request.prefix) + count + 1) * self.ms_per_byte / milliseconds
            if request.stops_before(0.5 if byte in b"?l" else 1.0, place):
                return self._said(answer.token_ids[:count])
            if request.stopping_criterion is not None and request.stopping_criterion(answer.token_ids[: count + 1]):
                return self._said(answer.token_ids[: count + 1])
        return self._said(answer.token_ids, answer.truncated)

    def _said(self, token_ids, truncated=False):
        return Continuation(token_ids, truncated, tuple(0.5 if byte in b"?l" else 1.0 for byte in token_ids))

    def decode(self, token_ids):
        return bytes(token_ids).decode(errors="replace")


@contextlib.contextmanager
def killed_after(owner, name, is_the_moment):
    """Stop what is done inside by `Killed`, after the call of `owner.name` whose arguments are the moment."""
    original = getattr(owner, name)

    def call_then_stop(*arguments):
        original(*arguments)
        if is_the_moment(*arguments):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call_then_stop)
        with pytest.raises(Killed):
            yield


@contextlib.contextmanager
def killed_in(owner, name):
    """Stop what is done inside by `Killed`, when it calls `owner.name`."""

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(Killed):
            yield


def lives_until_done(model_class, lives, attempt, **options):
    """Attempt with a `Mortal` of ever more lives until it does not die; return how many lives that took."""
    for count in lives:
        model = model_class(**options)
        model.lives = count
        try:
            attempt(model)
            return count
        except Killed:
            continue
    raise AssertionError("it always dies")


class Killed(BaseException):
    """Stands for the end of a process: no code under test catches it."""


class Mortal:
    """Before a model among the bases: dies at the `lives`-th call."""

    lives = 0

    def generate(self, prompts, requests):
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().generate(prompts, requests)


class HastyModel(ClockModel):
    """Gets up to `worst` of the last bytes wrong that it says before the end, in some utterances more."""

    def __init__(self, worst=7):
        super().__init__(ms_per_byte=70.0)
        self.worst = worst

    def encode_prompts(self, prompts, waveforms):
        return [(len(waveform), int(abs(waveform[0]) * 3e4) % (self.worst + 1)) for waveform in waveforms]

    def generate(self, prompts, requests):
        self.batches.append(len(prompts))
        return [self._hasty(*heard, request) for heard, request in zip(prompts, requests, strict=True)]

    def _hasty(self, samples, wrong, request):
        target = self.text.encode()
        said = target[: int(samples / 16 / self.ms_per_byte)]
        if len(said) < len(target):
            said = said[: len(said) - wrong] + b"?" * min(wrong, len(said))
        return Continuation(tuple(said[len(request.prefix) :]), truncated=False)


def generate_all(model, prompts, waveforms, prefixes, limit):
    """What a model says after forced prefixes, in one batch."""
    requests = [GenerationRequest(tuple(prefix), max_new_tokens=limit) for prefix in prefixes]
    return model.generate(model.encode_prompts(prompts, waveforms), requests)


def write_offline(folder, count):
    """`make_dataset` as LLaMA-Factory finds it: offline.jsonl, and its entry as `toy` in dataset_info.json."""
    dataset = make_dataset(folder, count=count)
    write_jsonl(Path(folder) / "offline.jsonl", dataset.sharegpt_rows())
    write_json(Path(folder) / "dataset_info.json", {"toy": {"file_name": "offline.jsonl", **SHAREGPT_ENTRY}})


def noise_samples(folder, seconds, text=TEXT, seed=0):
    """A sample for each length in `seconds`: noise in 0.wav, 1.wav …, with the reference `text`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [
        Sample(row, ASK, text, write_noise(Path(folder) / f"{row}.wav", length, seed=seed + row))
        for row, length in enumerate(seconds)
    ]


def varied_seconds(count, shortest=2.2):
    """`count` lengths of five kinds, a tenth of a second apart."""
    return [shortest + 0.1 * (row % 5) for row in range(count)]

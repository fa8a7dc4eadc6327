"""A model that reads what it translates from the audio: each word is a stretch of one value."""

from dataclasses import dataclass

import numpy as np

from helpers.fakes import ClockModel
from simulsa_plugin.model.values import Continuation

WORD_SAMPLES = 6400  # 0.4 s
GUESS = 99
SCALE = 1e-4  # value of a sample of word 1


def spoken(words, pauses=()):
    """The audio of numbered words (num_samples,); before each word in `pauses` there are 0.2 s of silence."""
    parts = []
    for word in words:
        parts += [np.zeros(3200)] * (word in pauses) + [np.full(WORD_SAMPLES, word * SCALE)]
    return np.concatenate(parts).astype(np.float32)


def text_of(words):
    """The translation of numbered words: a sentence ends at every fifth."""
    return " ".join(f"w{word}{'.' if word % 5 == 0 else ''}" for word in words)


@dataclass
class ReadingModel(ClockModel):
    """Translates the words whose audio it hears whole, and goes on after a forced prefix where that ends.

    A token is a word. With `regret`, it guesses a wrong one where it hears a word in part. `loops_at` is a word that it
    repeats for ever.
    """

    loops_at: int | None = None

    def encode_prompts(self, prompts, waveforms):
        self.read_samples += map(len, waveforms)
        return [self._heard(waveform) for waveform in waveforms]

    def _heard(self, waveform):
        values = np.round(waveform / SCALE).astype(int)
        runs = [(int(run[0]), len(run)) for run in np.split(values, np.flatnonzero(np.diff(values)) + 1)]
        words = [number for number, length in runs if number and length == WORD_SAMPLES]
        number, length = runs[-1]
        return [*words, GUESS] if self.regret and number and length < WORD_SAMPLES else words

    def generate(self, prompts, requests):
        self.batches.append(len(prompts))
        return [self._go_on(words, request) for words, request in zip(prompts, requests, strict=True)]

    def _go_on(self, words, request):
        last = max((token for token in request.prefix if token != GUESS), default=0)
        rest = [word for word in words if word > last]
        if self.loops_at in rest:
            rest = [*rest[: rest.index(self.loops_at)], *[self.loops_at] * 30]
        said = []
        for token in rest:
            if request.stops_before(self._probability(token), 1.0):
                break
            said.append(token)
            if request.stopping_criterion is not None and request.stopping_criterion(said):
                break
        return Continuation(tuple(said), False, tuple(map(self._probability, said)))

    def _probability(self, token):
        return 0.5 if token == GUESS else 1.0

    def decode(self, token_ids):
        return "".join(" ???" if token == GUESS else f" {text_of([token])}" for token in token_ids)

"""An agent for SimulEval 1.1.4 that decodes as SimulSA does: one utterance at a time, by transformers' `generate`."""

import numpy as np
from simuleval.agents import SpeechToTextAgent
from simuleval.agents.actions import ReadAction, WriteAction

from simulsa_plugin.metrics.delays import complete_units
from simulsa_plugin.model.values import GenerationRequest
from simulsa_plugin.streaming.session import MIN_DECODED_MS, SAMPLES_PER_MS


class RollbackAgent(SpeechToTextAgent):
    """Continues what is committed at every chunk, takes the last `rollback` tokens back, and writes whole words.

    `configure` comes first: SimulEval makes its agents itself.
    """

    @classmethod
    def configure(cls, model, renderer, prompt, rollback, max_new_tokens):
        """`model` decodes in transformers' own way; `renderer` gives the prompt's tokens at no cost to speak of."""
        cls.model, cls.renderer, cls.prompt = model, renderer, prompt
        cls.rollback, cls.max_new_tokens = rollback, max_new_tokens

    def reset(self):
        super().reset()
        self.token_ids, self.committed, self.written = (), 0, 0

    def policy(self):
        finished = self.states.source_finished
        if len(self.states.source) < MIN_DECODED_MS * SAMPLES_PER_MS and not finished:
            return ReadAction()
        self._step(np.array(self.states.source, dtype=np.float32), finished)
        text = self.model.decode(self.token_ids[: self.committed])
        words = complete_units(text, "word", finished)
        new, self.written = words[self.written :], len(words)
        return WriteAction(" ".join(new), finished=finished) if new or finished else ReadAction()

    def _step(self, waveform, finished):
        prefix = self.token_ids[: self.committed]
        prompts = self.model.encode_prompts([self.renderer.render_prompt(self.prompt, waveform)], [waveform])
        (answer,) = self.model.generate(prompts, [GenerationRequest(prefix, max_new_tokens=self.max_new_tokens)])
        self.token_ids = prefix + answer.token_ids
        length = len(self.token_ids)
        self.committed = length if finished else max(self.committed, length - self.rollback)

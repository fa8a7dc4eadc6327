"""Texts of token prefixes through windows: what whole prefixes give, in work that grows with the reference alone."""

import numpy as np
import pytest
from helpers.fakes import ASK
from tokenizers import normalizers

from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.cached_tokenizer import CachedTokenizer
from simulsa_plugin.llamafactory.data.prefixes import WINDOW, prefix_lengths, unstable_prefix_lengths
from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
from simulsa_plugin.model.values import Prompt

SILENCE = np.zeros(16_000, np.float32)
WORDS = ["der", "Hund", "läuft", "„schnell“,", "我用GPT。", "🙂🇩🇪", "\ufffd", "e\u0301", "  a", "\n", "don't", "3.14"]


def text_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[number] for number in rng.integers(0, len(WORDS), count)).strip()


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase()], ids=str)
def test_windows_give_what_whole_prefixes_give(renderer, monkeypatch, normalizer):
    monkeypatch.setattr(renderer.tokenizer.backend_tokenizer, "normalizer", normalizer)
    one = TemplateRenderer(renderer.tokenizer, renderer.processor, renderer.template, {})
    reference = text_of(120)
    rendered = one.render(ASK, SILENCE, reference)
    ids, whole = rendered.content_ids, one.decode(rendered.content_ids)
    texts = [one.decode(ids[:count]) for count in range(1, len(ids) + 1)]
    assert len(ids) > 300
    lengths = prefix_lengths(lambda start, stop: one.decode(ids[start:stop]), range(1, len(ids) + 1), whole)
    assert lengths == [len(text) if whole.startswith(text) else None for text in texts]
    for text, end in zip(texts, rendered.char_ends, strict=True):
        if end is not None:
            assert one.decode(one._encode_content(reference[:end])) == text
    assert one.unstable_prefixes(rendered, reference) == tuple(
        count
        for count, end in enumerate(rendered.char_ends[:-1], 1)
        if end is not None and one._encode_content(reference[:end]) != ids[:count]
    )


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=str)
def test_a_reference_four_times_as_long_takes_four_times_the_work(renderer, monkeypatch, normalizer):
    monkeypatch.setattr(renderer.tokenizer.backend_tokenizer, "normalizer", normalizer)
    one = TemplateRenderer(renderer.tokenizer, renderer.processor, renderer.template, {})
    work = []
    decode, encode = one.decode, one._encode_answer
    monkeypatch.setattr(one, "decode", lambda ids: work.append(len(ids)) or decode(ids))
    monkeypatch.setattr(one, "_encode_answer", lambda text: work.append(len(text)) or encode(text))
    done = []
    for count in (60, 240):
        reference = text_of(count).replace("\ufffd", "x")
        work.clear()
        one.unstable_prefixes(one.render(ASK, SILENCE, reference), reference)
        done.append(sum(work))
    assert done[1] < 5 * done[0]


def test_a_cached_tokenizer_encodes_as_the_tokenizer(renderer):
    texts = [text_of(count, seed) for seed in range(5) for count in (0, 1, 3, 30)]
    for prepare in (lambda cached: None, lambda cached: cached.encode_ahead(texts)):
        cached = CachedTokenizer(renderer.tokenizer)
        prepare(cached)
        for text in texts * 2:
            assert cached.encode(text, add_special_tokens=False) == renderer.tokenizer.encode(
                text, add_special_tokens=False
            )
            cached.encode(text, add_special_tokens=False).append(7)  # what is returned is the caller's
            assert cached.encode(text) == renderer.tokenizer.encode(text)
        assert cached.eos_token_id == renderer.tokenizer.eos_token_id


def test_prefixes_of_a_reference_are_encoded_in_batches(renderer, monkeypatch):
    one = TemplateRenderer(renderer.tokenizer, renderer.processor, renderer.template, {})
    reference = text_of(60).replace("\ufffd", "x")
    rendered = one.render(ASK, SILENCE, reference)
    batches, ahead = [], one._cached_tokenizer.encode_ahead
    monkeypatch.setattr(one._cached_tokenizer, "encode_ahead", lambda texts: batches.append(ahead(texts)))
    one.unstable_prefixes(rendered, reference)
    assert len(batches) <= 3 * (1 + len(rendered.content_ids) // WINDOW)


def test_texts_that_windows_do_not_add_up_to_are_taken_whole():
    # A decoder that leaves out the first token of whatever it is given, as some leave out a leading space.
    tokens = [f"{number % 7}" for number in range(200)]
    asked = []

    def piece(start, stop):
        asked.append(start)
        return "".join(tokens[start:stop])[1:] if start == 0 else ""

    whole = "".join(tokens)[1:]
    assert prefix_lengths(piece, range(1, 201), whole) == list(range(200))
    assert any(asked)  # windows were tried


def test_what_a_window_calls_unlike_is_looked_at_whole():
    # Every tenth text is unlike, and windows that begin after the start always say so.
    reference = "ab " * 100
    ends = range(1, 301)
    found = unstable_prefix_lengths(lambda start, stop: start == 0 and stop % 10 != 0, reference, list(ends))
    assert found == tuple(range(10, 300, 10))


@pytest.mark.parametrize("text", ["<|AUDIO|>", "Ja. <|AUDIO|> Nein."])
def test_the_audio_token_stands_for_audio_wherever_it_is(renderer, text):
    with pytest.raises(ModelError, match=r"the reference holds the template's audio token '<\|AUDIO\|>', and no audio"):
        renderer.render(ASK, SILENCE, text)
    for prompt in (Prompt(({"role": "user", "content": f"<audio>{text}"},)), Prompt(ASK.messages, system=text)):
        with pytest.raises(ModelError, match="the prompt holds the template's audio token"):
            renderer.render_prompt(prompt, SILENCE)

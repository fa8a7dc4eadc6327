"""Requests that join a batch while others go on are answered as if they were alone."""

import contextlib

import pytest
import torch
from helpers.decoding import ASK, packaged_model, spoken, static_steps, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from simulsa_plugin.llamafactory.model.continuous_batch import ContinuousBatch
from simulsa_plugin.llamafactory.model.kv_cache import CACHE_GROWTH, CacheRows, PreallocatedCacheLayer, join_rows
from simulsa_plugin.llamafactory.model.static_step import CaptureError
from simulsa_plugin.model.open_batch import SeparateBatches, open_batch
from simulsa_plugin.model.values import GenerationRequest

MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="module")
def model():
    return packaged_model()


@pytest.fixture(scope="module")
def waveforms():
    return spoken(12)


@pytest.fixture(scope="module")
def prompts(model, waveforms):
    return model.encode_prompts([model.render_prompt(ASK, clip) for clip in waveforms], waveforms)


def answer_in_parts(model, prompts, requests, sizes, unfinished):
    """Answers of requests that are added part by part, and of how many were left after each part."""
    batch, answers, left, begin = open_batch(model), {}, [], 0
    for size, allowed in zip([*sizes, len(requests)], [*unfinished, 0], strict=True):
        part = slice(begin, begin + size)
        new = batch.extend(prompts[part], requests[part], allowed)
        assert not answers.keys() & new.keys()
        answers |= new
        begin = min(begin + size, len(requests))
        left.append(begin - len(answers))
    assert all(count <= allowed for count, allowed in zip(left, [*unfinished, 0], strict=True))
    return [answers[number] for number in range(len(requests))], left


@st.composite
def any_requests(draw):
    """(prompt, request) pairs, how many are added at a time, and how many may be left each time."""
    text = st.lists(st.integers(260, 330), max_size=4).map(tuple)
    pairs = draw(st.lists(st.tuples(st.integers(0, 4), st.builds(
        GenerationRequest, text, text, st.sampled_from([None, 0.5, 0.99]), st.sampled_from([None, None, None, 0.1]),
        max_new_tokens=st.sampled_from([1, 3, 80]),
    )), min_size=1, max_size=14))  # fmt: skip
    sizes = draw(st.lists(st.integers(0, 5), max_size=5))
    return pairs, sizes, draw(st.lists(st.integers(0, 8), min_size=len(sizes), max_size=len(sizes)))


@pytest.mark.parametrize("static", [False, True])
@settings(max_examples=30)
@given(drawn=any_requests())
def test_any_requests_are_answered_as_one_by_one(model, prompts, static, drawn):
    pairs, sizes, unfinished = drawn
    asked, requests = [prompts[number] for number, _ in pairs], [request for _, request in pairs]
    expected = [model.generate([prompt], [one])[0] for prompt, one in zip(asked, requests, strict=True)]
    with static_steps(model.decoder) if static else contextlib.nullcontext():
        found, _ = answer_in_parts(model, asked, requests, sizes, unfinished)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.truncated for one in found] == [one.truncated for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


@pytest.mark.parametrize("template", ["qwen2_audio", "qwen2_omni", "qwen3_omni"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_requests_join_in_every_architecture_with_shared_prompts(template, attention, tmp_path):
    loaded, prompts = tiny_model(template, attention, tmp_path)
    requests = [GenerationRequest(max_new_tokens=count) for count in (40, 3, 90, 17)]
    found, left = answer_in_parts(loaded, prompts, requests, [1, 2], [1, 2])
    assert max(left) > 0  # some went on when others joined
    assert [one.token_ids for one in found] == [one.token_ids for one in loaded.generate(prompts, requests)]


def test_decode_steps_are_shared_with_requests_that_join(model, prompts):
    requests = [GenerationRequest(max_new_tokens=count) for count in (4, 9, 9)]
    rows = passes(model, lambda: answer_in_parts(model, prompts[:3], requests, [2], [1]))
    # The first two begin together and the second is left; it and the third go on together.
    assert [count for count, tokens in rows if tokens == 1] == [2] * 3 + [2] * 5 + [1] * 3


def test_what_all_prompts_begin_with_is_computed_once(model, prompts):
    requests = [GenerationRequest(max_new_tokens=2)] * 9
    shared = prompts[0].before_audio
    rows = passes(model, lambda: answer_in_parts(model, prompts[:9], requests, [3, 3, 2], [0, 0, 0]))
    assert len(shared) > 5
    assert rows.count((1, len(shared))) == 1
    longest = max(len(prompt.embeddings) for prompt in prompts[:9])
    assert max(tokens for _, tokens in rows) <= longest - len(shared)


def passes(model, work):
    """(rows, tokens) of each pass of the language model."""
    seen, hidden_states = [], model.decoder.hidden_states

    def noted(embeddings, *rest):
        seen.append(embeddings.shape[:2])
        return hidden_states(embeddings, *rest)

    model.decoder.hidden_states = noted
    try:
        work()
    finally:
        del model.decoder.hidden_states
    return [tuple(one) for one in seen]


@pytest.mark.parametrize("failing", [1, 2, 5, 8, 11, 14])
def test_a_batch_that_stops_fitting_is_answered_all_the_same(model, prompts, monkeypatch, failing):
    requests = [GenerationRequest(prefix=(), max_new_tokens=count) for count in (12, 3, 60, 60, 5, 60)]
    expected = model.generate(prompts[:6], requests)
    hidden_states, calls = model.decoder.hidden_states, []

    def fail_once(*tensors):
        calls.append(1)
        if len(calls) == failing:
            raise MEMORY
        return hidden_states(*tensors)

    monkeypatch.setattr(model.decoder, "hidden_states", fail_once)
    found, _ = answer_in_parts(model, prompts[:6], requests, [2, 2], [2, 3])
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert len(calls) > failing


def test_requests_with_attention_begin_when_the_memory_of_others_is_free(model, prompts):
    plain, attentive = [GenerationRequest(max_new_tokens=9)] * 3, GenerationRequest(min_audio_ahead=0.1)
    batch = open_batch(model)
    assert batch.extend(prompts[:3], plain, 3) == {}
    generate, left = batch._generate, []
    batch._generate = lambda *arguments: left.append(batch._rows.unfinished) or generate(*arguments)
    answers = batch.extend(prompts[3:4], [attentive], 4)
    assert left == [0]
    assert [answers[number].token_ids for number in range(4)] == [
        model.generate([prompt], [request])[0].token_ids
        for prompt, request in zip(prompts[:4], [*plain, attentive], strict=True)
    ]


def test_a_step_that_cannot_be_captured_is_done_without_graphs(model, prompts, monkeypatch, capfd):
    requests = [GenerationRequest()] * 6
    expected = model.generate(prompts[:6], requests)
    error = CaptureError("CUDA error: operation not permitted when stream is capturing")
    monkeypatch.setattr(
        "simulsa_plugin.llamafactory.model.static_step.CapturedStep.__call__",
        lambda step: (_ for _ in ()).throw(error),
    )
    with static_steps(model.decoder):
        found, _ = answer_in_parts(model, prompts[:6], requests, [3], [2])
        assert model.decoder.static is None
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    (line,) = capfd.readouterr().err.splitlines()
    assert "decoding goes on without CUDA graphs" in line


def test_other_errors_pass(model, prompts, monkeypatch):
    monkeypatch.setattr(model.decoder, "hidden_states", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        open_batch(model).extend(prompts[:2], [GenerationRequest()] * 2, 0)


def test_models_without_shared_prompts_answer_part_by_part(model, waveforms, monkeypatch):
    assert isinstance(model.open_batch(), ContinuousBatch)
    monkeypatch.setattr(model, "decoder", model.plain_decoder)
    assert isinstance(model.open_batch(), SeparateBatches)
    encoded = model.encode_prompts([model.render_prompt(ASK, clip) for clip in waveforms[:4]], waveforms[:4])
    requests = [GenerationRequest(max_new_tokens=count) for count in (5, 9, 2, 5)]
    found, left = answer_in_parts(model, encoded, requests, [1, 2], [5, 5])
    assert found == [model.generate([prompt], [one])[0] for prompt, one in zip(encoded, requests, strict=True)]
    assert left == [0, 0, 0]


@settings(max_examples=60)
@given(data=st.data())
def test_joined_rows_hold_the_visible_columns_in_order(data):
    layers, heads, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), 2
    parts, expected = [], []
    for number in range(data.draw(st.integers(1, 3))):
        rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
        states = torch.arange(layers * 2 * rows * heads * columns * width, dtype=torch.float32) + 10_000 * number
        states = states.view(layers, 2, rows, heads, columns, width)
        chosen = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5))
        visible = [data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns)) for _ in chosen]
        visible = torch.tensor([[one or not any(row) for one in row] for row in visible])
        kind = data.draw(st.sampled_from(["tensors", "buffers", "selected"]))
        expected += [states[:, :, row, :, seen] for row, seen in zip(chosen, visible, strict=True)]
        numbers = torch.tensor(chosen)
        if kind == "selected":  # rows that were selected before, and are not copied yet
            earlier = torch.tensor(data.draw(st.permutations(range(rows))))
            numbers = torch.argsort(earlier)[numbers]
        cached = [as_layer(kind, keys, values, earlier if kind == "selected" else None) for keys, values in states]
        parts.append(CacheRows(cached, numbers, visible, visible.sum(1).tolist()))
    cache, visible = join_rows(parts)
    assert all(part.layers == [] for part in parts)
    assert visible.sum(1).tolist() == [one.shape[3] for one in expected]
    for number, layer in enumerate(cache.layers):
        for row, one in enumerate(expected):
            assert torch.equal(layer.keys[row][:, visible[row]], one[number, 0])
            assert torch.equal(layer.values[row][:, visible[row]], one[number, 1])
        new = torch.zeros(len(expected), heads, 1, width)
        buffers = layer.stored()[0]
        for _ in range(CACHE_GROWTH):
            layer.update(new, new)
        assert layer.stored()[0][0] is buffers[0]  # there was room


def as_layer(kind, keys, values, selected):
    """Keys and values as `join_rows` may get them."""
    if kind == "tensors":
        return keys, values
    room = torch.full((*keys.shape[:2], 3, keys.shape[3]), torch.nan)
    layer = PreallocatedCacheLayer.filled(torch.cat([keys, room], 2), torch.cat([values, room], 2), keys.shape[2])
    if selected is not None:
        layer.batch_select_indices(selected)
    return layer

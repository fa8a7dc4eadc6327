"""The test set that `simulsa-eval` makes where no recipe names one: utterances, or talks for long-form decoding."""

import pytest

from simulsa_plugin.api import loading
from simulsa_plugin.api.evaluate_recipe import evaluate_recipe
from simulsa_plugin.demo import corpus, talks


class ReadyError(Exception):
    """All is read, and the model would be loaded."""


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Run an evaluation of the embedded default up to its model, with few and short test sets; return its rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    speak, say = talks.iterate_talks, corpus.iterate_utterances
    monkeypatch.setattr(talks, "iterate_talks", lambda split, minutes, processes: speak(split, (0.2, 0.3), processes))
    monkeypatch.setattr(corpus, "iterate_utterances", lambda split, count, processes: say(split, 3, processes))
    found = []

    def up_to_the_model(toolkit, names, cache_bytes, check):
        from simulsa_plugin.llamafactory.data.dataset import load_datasets
        from simulsa_plugin.llamafactory.model.arguments import inference_arguments

        loading.activate_plugin()
        (dataset,) = load_datasets(inference_arguments(toolkit), names)
        check([dataset])
        raise ReadyError(dataset.name)

    read_samples = loading.read_samples
    monkeypatch.setattr(loading, "load_model_and_data", up_to_the_model)
    monkeypatch.setattr(loading, "read_samples", lambda *given: found.extend(read_samples(*given)) or found)

    def run(*overrides):
        found.clear()
        with pytest.raises(ReadyError) as caught:
            evaluate_recipe(None, list(overrides), tmp_path / "out")
        return str(caught.value), list(found)

    return run


def test_talks_are_made_for_long_form_and_utterances_without(read, tmp_path):
    name, rows = read("simulsa_longform=window")
    assert (name, len(rows)) == (talks.TALKS_NAME, 2)
    assert all(len(row.segments) > 1 for row in rows)
    assert all(row.reference == " ".join(one.reference for one in row.segments) for row in rows)
    assert {path.parent for row in rows for path in [tmp_path / row.audio]} == {tmp_path / "out" / "corpus" / name}
    assert not (tmp_path / "out" / "corpus" / corpus.TEST_NAME).exists()

    name, rows = read()
    assert (name, len(rows)) == (corpus.TEST_NAME, 3)
    assert not any(row.segments for row in rows)


def test_talks_are_spoken_once(read, tmp_path):
    read("simulsa_longform=vad")
    (path, _) = sorted((tmp_path / "out" / "corpus" / talks.TALKS_NAME).glob("*.wav"))
    before = path.stat().st_mtime_ns
    name, rows = read("simulsa_longform=window", "simulsa_eval_samples=1")
    assert (name, len(rows), path.stat().st_mtime_ns) == (talks.TALKS_NAME, 1, before)

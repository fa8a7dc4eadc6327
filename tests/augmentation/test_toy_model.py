"""A model whose logits fit on a page: every number of a run worked out by hand, for every rule.

Vocabulary, seven pieces: ids 0–4 spell the reference «Der Mann hat.», 5 is a wrong word, 6 the end of turn. Pieces that
a row of the table does not name have the logit 0, so that the softmax is exp(logit) over the sum of seven terms.
"""

import json
import math
import shutil

import numpy as np
import pytest
from helpers.fakes import ListDataset, write_noise
from helpers.files import read_json_lines

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.demo.checkpoint import checkpoint_path
from simulsa_plugin.demo.grammar import sample_sentence
from simulsa_plugin.model.values import Prompt, ReferenceScores, RenderedReference

PIECES = ("Der", " M", "ann", " hat", ".", " Haus", "<end>")
REFERENCE = "Der Mann hat."
CONTENT = (0, 1, 2, 3, 4)
CHAR_ENDS = [3, 5, 8, 12, 13]
WRONG, END, V = 5, 6, 7

# Seconds heard, below which → for each position {piece: logit}; the last position predicts the end of turn.
# Six pieces with logit 0 are six times e^0 = 1: a piece with ln 2 has p = 2 / (2 + 6) = 0.25, ln 4 has 4 / 10 = 0.4,
# ln 9 has 9 / 15 = 0.6, ln 54 has 54 / 60 = 0.9; beside a rival with ln 9 the logit 0 is 1 / 15, ln 2 is
# 2 / (2 + 9 + 5) = 1 / 8.
L2, L4, L9, L54 = map(math.log, (2, 4, 9, 54))
TABLE = [
    # less than 0.6 s: p = 0.25, 1/15 (the rival leads), 1/7 (nothing is known), 1/7, 1/7; end 1/7
    (0.6, [{0: L2}, {WRONG: L9}, {}, {}, {}, {}]),
    # less than 1 s: p = 0.9, 0.4, 1/8 (the rival leads), 0.25, 0.6; end 0.4
    (1.0, [{0: L54}, {1: L4}, {2: L2, WRONG: L9}, {3: L2}, {4: L9}, {END: L4}]),
    # less than 2 s: p = 0.9, 0.9, 0.6, 1/15 (the rival leads), 0.9; end 0.6
    (2.0, [{0: L54}, {1: L54}, {2: L9}, {WRONG: L9}, {4: L54}, {END: L9}]),
    # the whole: p = 0.9, 0.9, 0.9, 0.6, 0.6; end 0.9
    (math.inf, [{0: L54}, {1: L54}, {2: L54}, {3: L9}, {4: L9}, {END: L54}]),
]
P_LEAST = [0.25, 1 / 15, 1 / 7, 1 / 7, 1 / 7]
P_SHORT = [0.9, 0.4, 1 / 8, 0.25, 0.6]
P_LONGER = [0.9, 0.9, 0.6, 1 / 15, 0.9]
P_WHOLE = [0.9, 0.9, 0.9, 0.6, 0.6]
# Own logit less the best other one: ln 2 − 0, 0 − ln 9, 0 − 0, … and ln 2 − ln 9 where the rival leads.
MARGINS_SHORT = [L54, L4, L2 - L9, L2, L9]
MARGINS_LONGER = [L54, L54, L9, -L9, L54]
MARGINS_WHOLE = [L54, L54, L54, L9, L9]


class ToyModel:
    """The table behind the protocol; what it hears is how long it hears."""

    def __init__(self, output_width=V, unstable=()):
        self.output_width, self.unstable, self.window_seconds = output_width, unstable, None

    def describe(self):
        return {"model": "toy"}

    def hardware(self):
        return {"device": "abacus"}

    def render_prompt(self, prompt, waveform):
        return (100,)

    def render(self, prompt, waveform, reference):
        assert reference == REFERENCE
        return RenderedReference((100,), CONTENT, tuple(CHAR_ENDS))

    def count_tokens(self, prompt, waveform, reference):
        rendered = self.render(prompt, waveform, reference)
        return len(rendered.prompt_ids), len(rendered.content_ids)

    def unstable_prefixes(self, rendered, reference):
        return self.unstable

    def score(self, rendered, waveforms):
        return [self._score(one.content_ids, len(waveform)) for one, waveform in zip(rendered, waveforms, strict=True)]

    def _score(self, content_ids, num_samples):
        rows = next(rows for seconds, rows in TABLE if num_samples < seconds * SAMPLE_RATE)
        logits = [[named.get(piece, 0.0) for piece in range(V)] for named in rows]
        logprobs = [[value - math.log(sum(map(math.exp, row))) for value in row] for row in logits]
        content = list(zip(logprobs, content_ids, strict=False))
        return ReferenceScores(
            tuple(row[token] for row, token in content),
            tuple(row.index(max(row)) for row, _ in content),
            tuple(row[token] - max(row[:token] + row[token + 1 :]) for row, token in content),
            logprobs[-1][END],
        )


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("audio") / "a.wav", 3.0)


def run(audio, out, *, cut=0.8, model=None, **settings):
    """One sample, cut exactly there: l = m makes every distribution a point."""
    settings = AugmentSettings(**{"samples": 1, "min_seconds": cut, "max_seconds": cut} | settings)
    outcome = augment_dataset(ListDataset("toy", [(REFERENCE, audio)]), model or ToyModel(), settings, out)
    (row,) = read_json_lines(out / "toy_simulsa" / "scores.jsonl")
    return row, outcome.manifest


def logs(*probabilities):
    return pytest.approx([math.log(p) for p in probabilities], abs=1e-12)


@pytest.mark.parametrize(
    ("cut", "probabilities", "margins", "greedy", "end"),
    [
        (0.8, P_SHORT, MARGINS_SHORT, [0, 1, WRONG, 3, 4], 0.4),
        (1.0, P_LONGER, MARGINS_LONGER, [0, 1, 2, WRONG, 4], 0.6),  # 1 s is no longer below 1 s
        (2.5, P_WHOLE, MARGINS_WHOLE, [0, 1, 2, 3, 4], 0.9),
    ],
)
def test_every_score_of_a_row(audio, tmp_path, cut, probabilities, margins, greedy, end):
    row, _ = run(audio, tmp_path, cut=cut, extra_scores=("full", "lookback"))
    assert (row["cut_seconds"], row["duration_seconds"]) == (cut, 3.0)
    assert (row["token_ids"], row["char_ends"], row["greedy"]) == (list(CONTENT), CHAR_ENDS, greedy)
    assert row["logprobs"] == logs(*probabilities)
    assert row["margins"] == pytest.approx(margins, abs=1e-12)
    assert row["eos_logprob"] == pytest.approx(math.log(end), abs=1e-12)
    assert row["logprobs_full"] == logs(*P_WHOLE)
    # 200 ms earlier: 0.6 s is still in the second row of the table, 0.8 s too, 2.3 s in the last.
    assert row["logprobs_lookback"] == logs(*{0.8: P_SHORT, 1.0: P_SHORT, 2.5: P_WHOLE}[cut])


# (rule and its parameters, cut) → accepted tokens and text by token, and by word. «Der M» is half a word.
DECISIONS = [
    # threshold: 0.9, 0.4, 1/8 … and 0.9, 0.9, 0.6, 1/15 …
    ({"threshold": 0.3}, 0.8, (2, "Der M"), (1, "Der")),
    ({"threshold": 0.5}, 0.8, (1, "Der"), (1, "Der")),
    ({"threshold": 0.95}, 0.8, (0, ""), (0, "")),
    ({"threshold": 0.1}, 0.8, (5, REFERENCE), (5, REFERENCE)),
    ({"threshold": 0.1}, 1.5, (3, "Der Mann"), (3, "Der Mann")),
    ({"threshold": 0.06}, 1.5, (5, REFERENCE), (5, REFERENCE)),
    # The full stop belongs to its word: with 0.6 refused by 0.61, nothing after « hat» …
    ({"threshold": 0.61}, 2.5, (3, "Der Mann"), (3, "Der Mann")),
    # greedy: the rival leads at the third, at the fourth, nowhere
    ({"acceptance": "greedy"}, 0.8, (2, "Der M"), (1, "Der")),
    ({"acceptance": "greedy"}, 1.5, (3, "Der Mann"), (3, "Der Mann")),
    ({"acceptance": "greedy"}, 2.5, (5, REFERENCE), (5, REFERENCE)),
    # ratio at 0.8 s: 0.9/0.9 = 1, 0.4/0.9 = 0.444, (1/8)/0.9 = 0.139, 0.25/0.6 = 0.417, 0.6/0.6 = 1
    ({"acceptance": "ratio", "ratio_floor": 0.01}, 0.8, (1, "Der"), (1, "Der")),
    ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.44}, 0.8, (2, "Der M"), (1, "Der")),
    ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.13}, 0.8, (5, REFERENCE), (5, REFERENCE)),
    # at 1.5 s: 1, 1, 0.667, (1/15)/0.6 = 0.111
    ({"acceptance": "ratio", "ratio_floor": 0.01}, 1.5, (3, "Der Mann"), (3, "Der Mann")),
    ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.7}, 1.5, (2, "Der M"), (1, "Der")),
    # at 2.5 s all are 1 unless the floor is above 0.6: 0.9/0.95, three times, then 0.6/0.95 = 0.63
    ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.95}, 2.5, (5, REFERENCE), (5, REFERENCE)),
    ({"acceptance": "ratio", "ratio_floor": 0.95, "ratio_threshold": 0.7}, 2.5, (3, "Der Mann"), (3, "Der Mann")),
    # the default floor is min(1, 100 / 7) = 1: 0.9, 0.9, 0.6, 1/15 against 0.5
    ({"acceptance": "ratio"}, 1.5, (3, "Der Mann"), (3, "Der Mann")),
    ({"acceptance": "ratio"}, 0.8, (1, "Der"), (1, "Der")),
    # lookback at 1.1 s hears 0.9 s: 0.9, 0.4, 1/8; at 0.7 s it hears 0.5 s: 0.25, 1/15; with 50 ms 0.65 s
    ({"acceptance": "lookback", "threshold": 0.3}, 1.1, (2, "Der M"), (1, "Der")),
    ({"acceptance": "lookback", "threshold": 0.3}, 0.7, (0, ""), (0, "")),
    ({"acceptance": "lookback", "threshold": 0.2}, 0.7, (1, "Der"), (1, "Der")),
    ({"acceptance": "lookback", "threshold": 0.3, "lookback_ms": 50}, 0.7, (2, "Der M"), (1, "Der")),
    ({"acceptance": "lookback", "threshold": 0.3, "lookback_ms": 0}, 1.0, (3, "Der Mann"), (3, "Der Mann")),
]


@pytest.mark.parametrize("boundary", ["token", "word"])
@pytest.mark.parametrize("keep_empty", [True, False], ids=["kept", "dropped"])
@pytest.mark.parametrize(("rule", "cut", "token", "word"), DECISIONS)
def test_every_rule_on_paper(audio, tmp_path, rule, cut, token, word, boundary, keep_empty):
    row, manifest = run(audio, tmp_path, cut=cut, boundary=boundary, keep_empty=keep_empty, **rule)
    count, partial = {"token": token, "word": word}[boundary]
    assert (row["accepted_tokens"], row["partial"]) == (count, partial)
    kept = bool(partial) or keep_empty
    sample = {
        "messages": [
            {"role": "user", "content": "<audio>Translate."},
            {"role": "assistant", "content": partial},
        ],
        "audios": [str(tmp_path / "toy_simulsa" / "clips" / "toy-00000000-0.wav")],
    }
    assert read_json_lines(tmp_path / "toy_simulsa.jsonl") == [sample] * kept
    skipped = (
        []
        if kept
        else [
            {
                "id": "toy-00000000-0",
                "reason": "empty_partial",
                "audio": row["audio"],
                "cause": "no token of the reference was accepted, and simulsa_keep_empty is false",
            }
        ]
    )
    assert read_json_lines(tmp_path / "toy_simulsa" / "skipped.jsonl") == skipped
    assert manifest["skipped"] == ({} if kept else {"empty_partial": 1})
    assert manifest["counts"] == {
        "wanted": 1,
        "scored": 1,
        "samples": int(kept),
        "empty": int(partial == ""),
        "whole_reference": int(partial == REFERENCE),
        "tokens": 5,
        "accepted_tokens": count,
        "retokenized": 0,
        "close_to_threshold": 0,
    }


@pytest.mark.parametrize(
    ("width", "tau", "accepted"),
    # τ = 100 / V on 0.9, 0.9, 0.6, 1/15, 0.9; below V = 100 it is 1, which no probability here reaches.
    [(7, 1.0, 0), (100, 1.0, 0), (125, 0.8, 2), (200, 0.5, 3), (1499, 100 / 1499, 3), (1501, 100 / 1501, 5)],
)
def test_the_default_threshold_is_100_over_v(audio, tmp_path, width, tau, accepted):
    row, manifest = run(audio, tmp_path, cut=1.5, model=ToyModel(width))
    assert (row["accepted_tokens"], manifest["threshold"]) == (accepted, tau)
    assert f"|rule:threshold|tau:{tau:.4g}|" in manifest["signature"]


@pytest.mark.parametrize(
    ("width", "accepted"),
    # Floor 100 / V at 1.5 s: with 1 (V = 7) ratios are 0.9, 0.9, 0.6; with 0.95 (V = 105.26…) 0.947, 0.947, 0.63.
    [(7, 2), (106, 2), (1000, 3)],  # with 0.1 they are 1, 1, 0.667
)
def test_the_default_floor_is_100_over_v(audio, tmp_path, width, accepted):
    # 0.6 / max(0.9, floor): 0.6 / 1 = 0.6 and 0.6 / 0.943 = 0.636 are refused by 0.65, 0.6 / 0.9 = 0.667 is not.
    row, manifest = run(audio, tmp_path, cut=1.5, model=ToyModel(width), acceptance="ratio", ratio_threshold=0.65)
    assert row["accepted_tokens"] == accepted
    assert manifest["threshold"] is None  # this rule has no τ


@pytest.mark.parametrize(
    ("rule", "cut", "close"),
    [
        ({"threshold": 0.4 * math.exp(0.9e-4)}, 0.8, 1),  # refused by a hair
        ({"threshold": 0.4 * math.exp(-0.9e-4)}, 0.8, 1),  # accepted by a hair
        ({"threshold": 0.4 * math.exp(1.1e-4)}, 0.8, 0),
        ({"threshold": 0.6 * math.exp(0.5e-4)}, 0.8, 0),  # the last token is near, but the second was refused
        ({"acceptance": "lookback", "threshold": 0.4 * math.exp(0.9e-4)}, 1.1, 1),
        # A ratio is of two scores, each of which may differ: 0.4/0.9.
        ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.4 / 0.9 * math.exp(1.9e-4)}, 0.8, 1),
        ({"acceptance": "ratio", "ratio_floor": 0.01, "ratio_threshold": 0.4 / 0.9 * math.exp(2.1e-4)}, 0.8, 0),
    ],
)
def test_decisions_within_1e_4_of_the_bound_are_counted(audio, tmp_path, rule, cut, close):
    _, manifest = run(audio, tmp_path, cut=cut, **rule)
    assert manifest["counts"]["close_to_threshold"] == close


@pytest.mark.parametrize(
    ("dtype", "off", "close"),
    [("bfloat16", 0.24, 1), ("bfloat16", 0.26, 0), ("float16", 0.06, 1), ("float16", 0.065, 0), ("float32", 0.03, 0)],
)
def test_what_is_close_depends_on_the_number_format_of_the_weights(audio, tmp_path, dtype, off, close):
    class Half(ToyModel):
        def describe(self):
            return {**super().describe(), "dtype": dtype}

    _, manifest = run(audio, tmp_path, cut=0.8, model=Half(), threshold=0.4 * math.exp(off))
    assert manifest["counts"]["close_to_threshold"] == close
    assert manifest["tolerance"] == {"bfloat16": 0.25, "float16": 0.0625, "float32": 1e-4}[dtype]


def test_ties_after_the_refusal_do_not_matter(audio, tmp_path):
    # Below 0.6 s the second piece loses by ln 9; after it all seven tie at 1/7.
    row, manifest = run(audio, tmp_path, cut=0.5, acceptance="greedy")
    assert row["margins"] == pytest.approx([L2, -L9, 0.0, 0.0, 0.0], abs=1e-12)
    assert (row["accepted_tokens"], manifest["counts"]["close_to_threshold"]) == (1, 0)


def test_greedy_decided_by_less_than_two_tolerances_is_close(audio, tmp_path, monkeypatch):
    monkeypatch.setitem(TABLE[1][1][1], WRONG, L4 + 1.9e-4)
    row, manifest = run(audio, tmp_path, acceptance="greedy")
    assert (row["accepted_tokens"], manifest["counts"]["close_to_threshold"]) == (1, 1)


@pytest.mark.parametrize(("threshold", "listed"), [(0.3, True), (0.5, False), (0.1, False), (0.95, False)])
def test_text_that_training_tokenizes_otherwise_is_counted_and_listed(audio, tmp_path, threshold, listed):
    # «Der M» would be one piece of a fuller vocabulary; «Der», the whole and nothing at all are what they were.
    _, manifest = run(audio, tmp_path, model=ToyModel(unstable=(2,)), threshold=threshold)
    expected = {"id": "toy-00000000-0", "partial": "Der M", "accepted_token_ids": [0, 1]}
    assert read_json_lines(tmp_path / "toy_simulsa" / "retokenized.jsonl") == [expected] * listed
    assert manifest["counts"]["retokenized"] == int(listed)


def test_silence_around_a_clip_is_heard_and_kept_out_of_the_cut(audio, tmp_path):
    # 0.8 s of speech with up to 2 · 3 s of silence: what the model hears is longer than what was cut.
    row, _ = run(audio, tmp_path, silence_ms=3000.0, extra_scores=("full", "lookback"), lookback_ms=700.0)
    lead, trail = row["silence_seconds"]
    assert (row["cut_seconds"], 0 <= lead <= 3, 0 <= trail <= 3) == (0.8, True, True)

    def heard(seconds):
        return next(rows for limit, rows in zip((0.6, 1, 2, math.inf), EXPECTED, strict=True) if seconds < limit)

    assert row["logprobs"] == logs(*heard(lead + 0.8 + trail))
    assert row["logprobs_full"] == logs(*heard(lead + 3.0 + trail))
    # Looking back leaves 200 ms of the source: 0.8 − 0.7 is less.
    assert row["logprobs_lookback"] == logs(*heard(lead + 0.2 + trail))


EXPECTED = (P_LEAST, P_SHORT, P_LONGER, P_WHOLE)


def test_looking_back_never_leaves_less_than_200_ms(audio, tmp_path):
    # A cut of 0.7 s less 600 ms would leave 100 ms; in either case the first row of the table speaks.
    row, _ = run(audio, tmp_path, cut=0.7, acceptance="lookback", lookback_ms=600.0, threshold=0.2)
    assert row["logprobs_lookback"] == logs(*P_LEAST)
    assert row["partial"] == "Der"


# The same question to real tokenizers: does training see the tokens that were accepted?

ODD_REFERENCES = [
    "Straße   Häuser",
    "你好，世界",
    "12 345,67 €",
    "  Der Mann",
    "naïve café …",
    "don't, 's ist",
    "Der\n\nMann\n",
    "a🙂b",
    "DonauDampfSchiff",
    "rot-blau/grün",
    "'retro 'll 're",
    "...'hallo!?",
    "e\u0301le\u0300ve",
    "ABC  def \n ghi",
    "x\u00a0y",
]


def load(folder):
    from simulsa_plugin.llamafactory.data.rendering import load_renderer
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments

    return load_renderer(inference_arguments({"model_name_or_path": str(folder), "template": "qwen2_audio"}))


def rendered_references(renderer, references):
    prompt = Prompt(({"role": "user", "content": "<audio>Translate."},))
    return [renderer.render(prompt, np.zeros(1600, np.float32), reference) for reference in references]


def tokens_in_training(renderer, texts):
    """What LLaMA-Factory's own supervised processor labels for each answer, its end of turn included."""
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    processor = SupervisedDatasetProcessor(
        template=renderer.template,
        tokenizer=renderer.tokenizer,
        processor=renderer.processor,
        data_args=DataArguments(template="qwen2_audio", cutoff_len=2048),
    )
    columns = {
        "_prompt": [[{"role": "user", "content": "Translate."}]] * len(texts),
        "_response": [[{"role": "assistant", "content": text}] for text in texts],
        **{name: [""] * len(texts) for name in ("_system", "_tools")},
        **{name: [None] * len(texts) for name in ("_images", "_videos", "_audios")},
    }
    labels = processor.preprocess_dataset(columns)["labels"]
    return [[label for label in row if label != -100] for row in labels]


def by_brute_force(renderer, references, rendered):
    """For each reference the numbers of tokens whose text gives others, every partial tokenized by the trainer."""
    end = renderer.tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    places = [
        (index, count, reference[:stop], [*one.content_ids[:count], *end])
        for index, (reference, one) in enumerate(zip(references, rendered, strict=True))
        for count, stop in enumerate(one.char_ends[:-1], 1)
        if stop
    ]
    found = [[] for _ in references]
    trained = tokens_in_training(renderer, [text for _, _, text, _ in places])
    for (index, count, _, accepted), ids in zip(places, trained, strict=True):
        if ids != accepted:
            found[index].append(count)
    return [tuple(one) for one in found]


def test_no_partial_of_the_packaged_tokenizer_is_another_in_training():
    # Byte-pair merges never reach across a token's end, so what stands before it is merged the same without the rest.
    renderer, rng = load("simulsa-demo"), np.random.default_rng(0)
    references = [*(sample_sentence(rng).target_text for _ in range(100)), *ODD_REFERENCES]
    rendered = rendered_references(renderer, references)
    found = [renderer.unstable_prefixes(*pair) for pair in zip(rendered, references, strict=True)]
    assert found == by_brute_force(renderer, references, rendered) == [()] * len(references)


def test_a_tokenizer_that_looks_words_up_whole_gives_others(tmp_path):
    # As in Llama 3 (`ignore_merges`): a word of the vocabulary is one token, though no merges lead there.
    files = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(checkpoint_path(), tmp_path / "checkpoint", ignore=files)
    path = tmp_path / "checkpoint" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    largest = max(*tokenizer["model"]["vocab"].values(), *(one["id"] for one in tokenizer["added_tokens"]))
    tokenizer["model"]["ignore_merges"] = True
    tokenizer["model"]["vocab"] |= {"Stra": largest + 1, "Do": largest + 2}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    renderer = load(tmp_path / "checkpoint")
    references = ["Straße", "Donau Straße", "Der Mann"]
    rendered = rendered_references(renderer, references)
    found = [renderer.unstable_prefixes(*pair) for pair in zip(rendered, references, strict=True)]
    # «S», «t», «ra» spell «Stra», and «D», «o» «Do»; « Stra» with its space is no word of the vocabulary.
    assert [renderer.decode([token]) for token in rendered[0].content_ids[:3]] == ["S", "t", "ra"]
    assert found == by_brute_force(renderer, references, rendered) == [(3,), (2,), ()]

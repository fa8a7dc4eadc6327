"""Acceptance rules on toys worked out on paper."""

import math
from itertools import accumulate

import pytest

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method import acceptance
from simulsa_plugin.augmentation.method.acceptance import Greedy, clip_to_boundary, decide, default_threshold
from simulsa_plugin.errors import UsageError

V = 1000  # τ = 0.1


def logs(*probabilities):
    return [math.log(p) for p in probabilities]


def scores(reference="Der Mann hat", pieces=("Der", " M", "ann", " hat"), **fields):
    """A row of scores.jsonl whose tokens are text pieces."""
    assert "".join(pieces) == reference
    ends = [len("".join(pieces[: count + 1])) for count in range(len(pieces))]
    return {
        "id": "toy-00000000-0",
        "reference": reference,
        "token_ids": list(range(len(pieces))),
        "char_ends": ends,
        **fields,
    }


def decided(row, width=V, **settings):
    decision = decide(row, AugmentSettings(**settings), width)
    return decision.accepted_tokens, decision.partial


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.5, 0.2, 0.11, 0.9), (4, "Der Mann hat")),
        ((0.5, 0.2, 0.09, 0.9), (2, "Der M")),  # what follows the first refusal does not matter
        ((0.09, 0.9, 0.9, 0.9), (0, "")),
        ((0.5, 0.2, 0.5, 0.05), (3, "Der Mann")),
    ],
)
def test_threshold_accepts_until_the_first_p_below_tau(probabilities, expected):
    assert decided(scores(logprobs=logs(*probabilities))) == expected


def test_p_equal_to_tau_is_accepted():
    # docs/method.md: until the first p < τ.
    assert decided(scores(logprobs=logs(0.25, 0.25, 0.25, 0.25)), threshold=0.25) == (4, "Der Mann hat")


def test_tau_is_100_over_the_width_of_the_output_layer():
    assert default_threshold(151_646) == pytest.approx(6.594e-4, rel=1e-3)  # the paper's number
    assert default_threshold(50) == 1.0  # a probability, however small the vocabulary
    row = scores(logprobs=logs(0.5, 0.06, 0.5, 0.5))
    assert decided(row, width=2000) == (4, "Der Mann hat")  # τ = 0.05
    assert decided(row, width=1000) == (1, "Der")  # τ = 0.1
    assert decided(row, width=1000, threshold=0.05) == (4, "Der Mann hat")


def test_greedy_accepts_until_the_first_that_is_not_the_argmax():
    assert decided(scores(greedy=[0, 1, 9, 3]), acceptance="greedy") == (2, "Der M")
    assert decided(scores(greedy=[9, 1, 2, 3]), acceptance="greedy") == (0, "")
    assert decided(scores(greedy=[0, 1, 2, 3]), acceptance="greedy") == (4, "Der Mann hat")


def test_ratio_compares_with_the_full_audio():
    # Ratios 0.9, 0.52, 0.4, 1: the third is the first below 0.5.
    row = scores(logprobs=logs(0.9, 0.312, 0.2, 0.9), logprobs_full=logs(1.0, 0.6, 0.5, 0.9))
    assert decided(row, acceptance="ratio") == (2, "Der M")
    assert decided(row, acceptance="ratio", ratio_threshold=0.55) == (1, "Der")


def test_ratio_floors_p_full_at_100_over_v():
    # 0.03 / 0.05 = 0.6 would pass; with p(full) floored at 0.1 it is 0.3.
    row = scores(logprobs=logs(0.9, 0.03, 0.9, 0.9), logprobs_full=logs(0.9, 0.05, 0.9, 0.9))
    assert decided(row, acceptance="ratio") == (1, "Der")
    assert decided(row, acceptance="ratio", ratio_floor=0.01) == (4, "Der Mann hat")


def test_lookback_is_the_threshold_on_the_earlier_audio():
    row = scores(logprobs=logs(0.9, 0.9, 0.9, 0.9), logprobs_lookback=logs(0.9, 0.05, 0.9, 0.9))
    assert decided(row, acceptance="lookback") == (1, "Der")
    assert decided(row, acceptance="lookback", threshold=0.01) == (4, "Der Mann hat")


@pytest.mark.parametrize(("rule", "field"), [("ratio", "logprobs_full"), ("lookback", "logprobs_lookback")])
@pytest.mark.parametrize("present", [{}, {"logprobs_full": None, "logprobs_lookback": None}])
def test_a_missing_field_names_the_option_that_computes_it(rule, field, present):
    with pytest.raises(UsageError, match=f"needs {field}, which toy-00000000-0 .*simulsa_acceptance={rule}"):
        decided(scores(logprobs=logs(0.9, 0.9, 0.9, 0.9), **present), acceptance=rule)


@pytest.mark.parametrize(
    ("accepted", "token", "word"),
    [
        (4, "Der Mann hat", "Der Mann hat"),
        (3, "Der Mann", "Der Mann"),
        (2, "Der M", "Der"),
        (1, "Der", "Der"),
        (0, "", ""),
    ],
)
def test_the_boundary_is_a_token_or_a_word(accepted, token, word):
    row = scores(logprobs=logs(*[0.9] * accepted, *[0.01] * (4 - accepted)))
    assert decided(row)[1] == token
    assert decided(row, boundary="word")[1] == word


def test_a_word_goes_on_over_a_hyphen_and_a_comma():
    row = scores("rot-blau, ja", ("rot", "-", "blau", ",", " ja"), logprobs=logs(0.9, 0.9, 0.9, 0.01, 0.9))
    assert decided(row) == (3, "rot-blau")
    assert decided(row, boundary="word") == (0, "")


@pytest.mark.parametrize(
    "parts",
    [
        ["我", "在", "Google", "工", "作", "，", "2023", "年"],  # words of Latin letters and numbers stay whole
        ["コンピュータ", "を", "使", "う", "。"],  # UAX #29 keeps a run of Katakana together
        ["東", "京 ", "大", "学"],
        ["葛\U000e0100", "城", "か\u3099", "き"],  # a variation selector, a decomposed が
        ["ส", "วั", "ส", "ดี", "เธ", "อ", "น้ำ"],  # a vowel before its consonant, marks above, sara am
        ["ສະ", "ບາ", "ຍ", "ດີ"],
        ["ខ្ញុំ", "ស្រ", "លា", "ញ់"],  # a stacked consonant is not split off
        ["မြန်", "မာ", "စာ ", "န္ဓု", "လ"],  # nor is a final one
        ["བོད", "་", "སྐད"],
        ["한국어는 ", "쉽다"],  # Korean is written with spaces
        ["हम ", "हिन्दी"],
        ["Der ", "x-y,"],
    ],
)
def test_words_end_between_characters_where_a_script_has_no_spaces(parts):
    # The expected parts are the word boundaries of UAX #29 (Unicode), read by hand; one token for each code point.
    reference = "".join(parts)
    allowed = {"".join(parts[:count]).rstrip() for count in range(len(parts) + 1)}
    found = {clip_to_boundary(count, range(1, len(reference) + 1), reference, "word")[1]
             for count in range(len(reference) + 1)}  # fmt: skip
    assert found == allowed


def test_a_partial_of_a_script_without_spaces_is_neither_empty_nor_whole():
    row = scores("我喜欢你的书。", tuple("我喜欢你的书。"), logprobs=logs(*[0.9] * 4, *[0.01] * 3))
    assert decided(row, boundary="word") == decided(row, boundary="token") == (4, "我喜欢你")


@pytest.mark.parametrize(
    "characters",
    [
        ["M", "u\u0308", "l", "l", "e", "r"],  # a letter and its combining mark
        ["e\u0323\u0302", "a"],
        ["हि", "न्दी"],  # Devanagari: vowel signs, a conjunct
        ["👩\u200d👧", "!"],  # one emoji
        ["🇩🇪", "!"],  # a flag is two code points
    ],
)
def test_a_partial_never_ends_before_a_combining_mark(characters):
    # The expected characters are the extended grapheme clusters of UAX #29, read by hand; a token for each code point.
    reference = "".join(characters)
    ends = range(1, len(reference) + 1)
    for count in ends:
        whole = [text for text in accumulate(characters) if len(text) <= count]
        assert clip_to_boundary(count, ends, reference, "token")[1] == (whole[-1] if whole else "")


def test_white_space_at_the_end_is_taken_back():
    # A sentencepiece-like tokenizer with the space as a token of its own: a partial that ends in it would train it.
    row = scores("ja nein", ("ja", " ", "nein"), logprobs=logs(0.9, 0.9, 0.01))
    assert decided(row) == (1, "ja")


@pytest.mark.parametrize(
    ("reference", "accepted_bytes", "partial"),
    [
        ("für", 2, "f"),  # half an ü
        ("für", 3, "fü"),
        ("你好", 1, ""),
        ("你好", 2, ""),
        ("你好", 3, "你"),
        ("你好", 5, "你"),
        ("你好", 6, "你好"),
        ("a🙂b", 3, "a"),
        ("a🙂b", 5, "a🙂"),
    ],
)
def test_a_partial_never_ends_inside_a_character(reference, accepted_bytes, partial):
    encoded = reference.encode()
    ends = []
    for count in range(1, len(encoded) + 1):
        text = encoded[:count].decode(errors="replace")
        ends.append(len(text) if "\ufffd" not in text else None)
    row = {
        "id": "x",
        "reference": reference,
        "token_ids": list(encoded),
        "char_ends": ends,
        "logprobs": logs(*[0.9] * accepted_bytes, *[0.01] * (len(encoded) - accepted_bytes)),
    }
    count, text = decided(row)
    assert text == partial
    assert count == len(partial.encode())


def test_none_refused_is_the_whole_reference_as_it_is_written():
    row = scores("Ja. ", ("Ja", ".", " "), logprobs=logs(0.9, 0.9, 0.9))
    assert decided(row) == (3, "Ja. ")


@pytest.mark.parametrize(
    ("accepted", "token", "word"),
    [
        (0, "", ""),
        (1, "", ""),  # white space alone is nothing to say
        (2, "  Der", "  Der"),  # what is said begins as the reference does
        (3, "  Der M", "  Der"),
        (4, "  Der Mann", "  Der Mann"),
        (5, "  Der Mann \n", "  Der Mann \n"),
    ],
)
def test_white_space_around_the_reference(accepted, token, word):
    pieces = ("  ", "Der", " M", "ann", " \n")
    row = scores("".join(pieces), pieces, logprobs=logs(*[0.9] * accepted, *[0.01] * (5 - accepted)))
    assert decided(row)[1] == token
    assert decided(row, boundary="word")[1] == word


@pytest.mark.parametrize(
    ("ends", "accepted", "expected"),
    [
        ([3, 8], 2, (2, "Der Mann ")),  # a tokenizer that drops the last space: all tokens are the whole reference
        ([3, 8], 1, (1, "Der")),
        ([3, None], 2, (2, "Der Mann ")),  # one that writes it otherwise (é as e and ´)
        ([None, None], 1, (0, "")),
        ([0, 3], 1, (0, "")),  # a token without text
        ([3, 3], 1, (1, "Der")),
        ([3, 9], 1, (1, "Der")),
    ],
)
def test_tokens_that_do_not_spell_the_reference_to_its_end(ends, accepted, expected):
    row = {"id": "x", "reference": "Der Mann ", "token_ids": [1, 2], "char_ends": ends}
    assert decided(row | {"logprobs": logs(*[0.9] * accepted, *[0.01] * (2 - accepted))}) == expected


@pytest.mark.parametrize("rule", ["threshold", "greedy", "ratio", "lookback"])
@pytest.mark.parametrize("boundary", ["token", "word"])
def test_without_tokens_nothing_is_accepted(rule, boundary):
    row = {"id": "x", "reference": "…", "token_ids": [], "char_ends": [], "greedy": [], "margins": []}
    row |= {"logprobs": [], "logprobs_full": [], "logprobs_lookback": []}
    decision = decide(row, AugmentSettings(acceptance=rule, boundary=boundary), V)
    assert (decision.accepted_tokens, decision.partial, decision.close) == (0, "", False)


@pytest.mark.parametrize("row", [{}, {"greedy": None}])
def test_greedy_without_the_argmax_says_what_is_missing(row):
    with pytest.raises(UsageError, match="simulsa_acceptance=greedy needs greedy, which toy-00000000-0 does not have"):
        decided(scores(logprobs=logs(0.9, 0.9, 0.9, 0.9), **row), acceptance="greedy")


@pytest.mark.parametrize(("margins", "close"), [(None, None), ([1.0, 1.0, 3e-4, 0.0], False), ([1e-4, 1, -1, 0], True)])
def test_greedy_is_close_where_the_margin_is_small_or_not_known(margins, close):
    row = scores(greedy=[0, 1, 9, 3], margins=margins)
    assert decide(row, AugmentSettings(acceptance="greedy"), V).close is close


def test_a_new_rule_is_a_class_and_its_line_in_the_registry(monkeypatch):
    class Half(Greedy):
        name, extra_score = "half", "full"

        def accept(self, row):
            return len(self._field(row, "logprobs_full")) // 2, math.inf

    with pytest.raises(UsageError, match="is 'half'; allowed: threshold, greedy, ratio, lookback"):
        AugmentSettings(acceptance="half")
    monkeypatch.setitem(acceptance.RULES, Half.name, Half)
    assert AugmentSettings(acceptance="half").scored_extras == ("full",)
    assert decided(scores(logprobs_full=[0.0] * 4), acceptance="half") == (2, "Der M")
    with pytest.raises(
        UsageError, match=r"needs logprobs_full.* with simulsa_acceptance=half or simulsa_extra_scores=full"
    ):
        decided(scores(), acceptance="half")

"""Recipes: what is typed is what is meant, or one line says what is wrong."""

import dataclasses
import itertools
import json
import re

import pytest

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS, known_keys
from simulsa_plugin.settings import read_recipe, split_recipe


def test_overrides_are_yaml_and_win_over_the_file(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("template: qwen2_audio\nsimulsa_ratio: 0.01\nlora_rank: 8\n", encoding="utf-8")
    values = read_recipe(recipe, ["simulsa_ratio=0.05", "flash_attn=sdpa", "simulsa_portable=true", "note=a=b"])
    assert values == {
        "template": "qwen2_audio",
        "simulsa_ratio": 0.05,
        "lora_rank": 8,
        "flash_attn": "sdpa",
        "simulsa_portable": True,
        "note": "a=b",
    }


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1.e-4"])
def test_an_exponent_needs_no_decimal_point(written):
    # PyYAML follows YAML 1.1 and reads 1e-4 as text; LLaMA-Factory's reader does not.
    assert read_recipe(None, [f"simulsa_threshold={written}"]) == {"simulsa_threshold": 0.0001}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- a\n- b\n", "holds a list; expected lines of `key: value`"),
        ("a: [1\n", "as YAML"),
        ("1: 2\n", "expected lines of `key: value`"),
    ],
)
def test_a_recipe_that_is_no_mapping_is_one_line(tmp_path, content, said):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        read_recipe(recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe")],
    ids=["missing", "folder", "not UTF-8"],
)
def test_an_unreadable_recipe_is_named(tmp_path, make):
    path = tmp_path / "r.yaml"
    make(path)
    with pytest.raises(UsageError, match=r"Cannot read the recipe .*r\.yaml.*Give the path of a YAML file"):
        read_recipe(path)


ODD_VALUES = {
    "no such date": "2024-99-99",
    "no such time": "2024-01-01 99:99:99",
    "400 digits": "1" * 400,
    "5000 digits": "1" * 5000,
    "hexadecimal": "0x" + "f" * 6000,
    "not a number": ".nan",
    "infinite": ".inf",
    "nested lists": "[" * 500 + "]" * 500,
    "nested mappings": "{a: " * 500 + "1" + "}" * 500,
    "python": '!!python/object/apply:os.system ["true"]',
    "int": "!!int abc",
    "float": "!!float x",
    "binary": '!!binary "!!!"',
    "set": "!!set {a}",
    "timestamp": '!!timestamp "x"',
    "omap": "!!omap [1]",
    "half a pair": '"\\ud800"',
    "escape sequence": '"\\e[31mRED"',
    "NUL": '"\\0"',
    "long": "x" * 10_000,
    "list as key": "{[1]: 2}",
    "no such alias": "*x",
    "holds itself": "&a [*a]",
    "merged number": "{<<: 1}",
    "key twice": "{a: 1, a: 2}",
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES.keys())
def test_any_value_of_any_key_is_taken_or_refused_in_one_short_line(value):
    try:
        (read,) = read_recipe(None, [f"key={value}"]).values()
    except UsageError as error:
        assert_short(error)
        return
    for key in known_keys():
        try:
            taken = [group.from_keys({key: read}).as_keys()[key] for group in GROUPS if key in group.keys()]
        except UsageError as error:
            assert_short(error)
        else:
            json.dumps(taken, allow_nan=False).encode()


def assert_short(error):
    assert len(str(error)) < 1000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", str(error))


BOMBS = {
    "ten to the ninth": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise("abcdefghi")),
    "lists that hold themselves": "a: &a [*a, *a]\n",
    "mappings that hold themselves": "a: &a {b: *a}\n",
    "brackets": "a: " + "[" * 1000,
    "long": f"a: {'x' * 2_000_000}\n",
    "keys twice": "simulsa_ratio: 0.1\nsimulsa_ratio: 0.2\n",
    "NUL": "a: \0\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "tab": "\ta: 1\n",
    "escape sequence in a key": '"a\\e[31m": 1\n',
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_recipe_that_cannot_be_meant_is_one_short_line(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_recipe(tmp_path / "r.yaml")
    assert str(caught.value).startswith(("Cannot read the recipe ", "Cannot use the recipe ", "The recipe "))
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_dates_and_aliases_are_read_as_llamafactory_reads_them(tmp_path):
    (tmp_path / "r.yaml").write_text("name: 2024-02-30\nbase: &b {x: 1}\nmore: {<<: *b, x: 2}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == {"name": "2024-02-30", "base": {"x": 1}, "more": {"x": 2}}


def test_an_empty_recipe_is_an_empty_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing yet\n", encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == {}


@pytest.mark.parametrize("argument", ["simulsa_ratio", "=5", " =5"])
def test_an_override_needs_key_and_equals(argument):
    with pytest.raises(UsageError, match="expected key=value"):
        read_recipe(None, [argument])


def test_keys_split_into_ours_and_the_toolkits():
    own, others = split_recipe(
        {"simulsa_ratio": 0.1, "simulsa_chunks": 500, "template": "x"}, [AugmentSettings, EvaluationSettings]
    )
    assert (own, others) == ({"simulsa_ratio": 0.1, "simulsa_chunks": 500}, {"template": "x"})


def test_an_unknown_key_names_the_nearest_or_all():
    with pytest.raises(UsageError, match=r"Unknown key simulsa_treshold: did you mean simulsa_threshold\?"):
        split_recipe({"simulsa_treshold": 1}, [AugmentSettings])
    with pytest.raises(UsageError, match=r"Unknown key simulsa_xyzzy: allowed: .*simulsa_ratio"):
        split_recipe({"simulsa_xyzzy": 1}, [AugmentSettings])


def test_the_defaults_are_the_papers():
    # DESIGN's table of the contract.
    assert AugmentSettings().as_keys() | {} == {
        "simulsa_ratio": 0.01,
        "simulsa_samples": None,
        "simulsa_truncation": "beta_decay",
        "simulsa_alpha": 1.0,
        "simulsa_beta": 3.0,
        "simulsa_min_seconds": 0.5,
        "simulsa_max_seconds": 5.0,
        "simulsa_cuts": 1,
        "simulsa_silence_ms": 0.0,
        "simulsa_extra_scores": [],
        "simulsa_acceptance": "threshold",
        "simulsa_threshold": None,
        "simulsa_ratio_threshold": 0.5,
        "simulsa_ratio_floor": None,
        "simulsa_lookback_ms": 200.0,
        "simulsa_boundary": "token",
        "simulsa_keep_empty": True,
        "simulsa_seed": 42,
        "simulsa_portable": False,
        "simulsa_batch_size": 64,  # these two are not part of the contract
        "simulsa_batch_tokens": 4096,
    }
    evaluation = EvaluationSettings()
    assert (evaluation.chunks, evaluation.rollbacks) == ((500, 1000, 1500, 2000), (0, 3, 5))
    assert (evaluation.policies, evaluation.max_new_tokens) == (("rollback",), 256)


@pytest.mark.parametrize(
    ("value", "meant"),
    [(500, (500,)), ("500,1000", (500, 1000)), ([500, 1000], (500, 1000)), ("500, 1000,", (500, 1000))],
)
def test_lists_are_typed_in_three_ways(value, meant):
    assert EvaluationSettings.from_keys({"simulsa_chunks": value}).chunks == meant


@pytest.mark.parametrize(
    ("group", "key", "value", "allowed"),
    [
        (AugmentSettings, "simulsa_ratio", 0, "> 0 and ≤ 1"),
        (AugmentSettings, "simulsa_ratio", 1.5, "> 0 and ≤ 1"),
        (AugmentSettings, "simulsa_ratio", float("nan"), "> 0 and ≤ 1"),
        (AugmentSettings, "simulsa_ratio", "much", "a number"),
        (AugmentSettings, "simulsa_ratio", True, "a number"),
        (AugmentSettings, "simulsa_samples", 0, "≥ 1"),
        (AugmentSettings, "simulsa_samples", 2.5, "a whole number"),
        (AugmentSettings, "simulsa_alpha", 0, "> 0"),
        (AugmentSettings, "simulsa_beta", -1, "> 0"),
        (AugmentSettings, "simulsa_min_seconds", 0.1, "≥ 0.15"),
        (AugmentSettings, "simulsa_max_seconds", float("inf"), "a number"),
        (AugmentSettings, "simulsa_threshold", 0, "> 0 and ≤ 1"),
        (AugmentSettings, "simulsa_truncation", "gamma", "beta_decay, beta_full, beta_discrete, uniform"),
        (AugmentSettings, "simulsa_acceptance", "treshold", "threshold, greedy, ratio, lookback"),
        (AugmentSettings, "simulsa_boundary", "char", "token, word"),
        (AugmentSettings, "simulsa_keep_empty", "maybe", "true or false"),
        (AugmentSettings, "simulsa_seed", None, "a whole number"),
        (AugmentSettings, "simulsa_batch_size", 0, "≥ 1"),
        (EvaluationSettings, "simulsa_chunks", 0, "≥ 1"),
        (EvaluationSettings, "simulsa_chunks", "fast", "a whole number"),
        (EvaluationSettings, "simulsa_rollbacks", -1, "≥ 0"),
        (EvaluationSettings, "simulsa_policies", "telepathy", "rollback"),
        (EvaluationSettings, "simulsa_attention_heads", "layer 3", "layer/head"),
        (EvaluationSettings, "simulsa_attention_ms", 0, "≥ 1"),
        (EvaluationSettings, "simulsa_confidence_window", 0, "≥ 1"),
        (EvaluationSettings, "simulsa_unit", "syllable", "auto, word, char"),
        (EvaluationSettings, "simulsa_max_new_tokens", 0, "≥ 1"),
    ],
)
def test_a_bad_value_names_the_key_the_value_and_what_is_allowed(group, key, value, allowed):
    with pytest.raises(UsageError) as caught:
        group.from_keys({key: value})
    message = str(caught.value)
    assert message.startswith(f"{key} is ")
    assert str(value) in message
    assert allowed in message


def test_an_upside_down_range_is_refused():
    with pytest.raises(UsageError, match=r"simulsa_max_seconds is 1.0, below simulsa_min_seconds 2.0"):
        AugmentSettings(min_seconds=2.0, max_seconds=1.0)


def test_a_chunk_named_twice_is_refused():
    with pytest.raises(UsageError, match="simulsa_chunks repeats a value"):
        EvaluationSettings.from_keys({"simulsa_chunks": "500,500"})


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AugmentSettings().ratio = 0.5


@pytest.mark.parametrize(
    ("language", "unit", "tokenizer"),
    [
        (None, "word", "13a"),
        ("de", "word", "13a"),
        ("zh", "char", "zh"),
        ("zh-CN", "char", "zh"),
        ("zh_TW", "char", "zh"),
        ("ja", "char", "ja-mecab"),
        ("ko", "word", "ko-mecab"),
        ("ZH", "char", "zh"),
        ("zh-Hant", "char", "zh"),
        ("cmn_hans_cn", "char", "zh"),
        ("yue_hant_hk", "char", "zh"),
        ("jpn", "char", "ja-mecab"),
        ("ja-Latn", "word", "13a"),
        ("th", "char", "char"),
        ("tha", "char", "char"),
        ("lo_la", "char", "char"),
        ("km", "char", "char"),
        ("my-MM", "char", "char"),
        ("vi", "word", "13a"),
    ],
)
def test_unit_and_tokenizer_follow_the_target_language(language, unit, tokenizer):
    # docs/method.md: zh → zh, ja → ja-mecab, ko → ko-mecab, else 13a; scripts without spaces: characters.
    settings = EvaluationSettings(target_language=language)
    assert (settings.latency_unit, settings.bleu_tokenizer) == (unit, tokenizer)


def test_what_is_named_wins_over_the_language():
    settings = EvaluationSettings(target_language="zh", unit="word", tokenizer="13a")
    assert (settings.latency_unit, settings.bleu_tokenizer) == ("word", "13a")


@pytest.mark.parametrize(
    ("language", "hint"),
    [("cn", "Did you mean zh?"), ("jp", "Did you mean ja?"), ("vn", "Did you mean vi?"), ("xx", "Correct it"),
     ("chinese", "Correct it"), ("German", "Correct it"), ("zh,de", "Correct it"), ("und", "Correct it"),
     ("", "Correct it")],
)  # fmt: skip
def test_what_is_not_a_language_tag_is_refused(language, hint):
    with pytest.raises(UsageError) as raised:
        EvaluationSettings(target_language=language)
    assert str(raised.value).startswith(f"simulsa_target_language is {language!r}, which is not a language tag")
    assert hint in str(raised.value)


def test_a_corpus_may_name_its_language_in_another_way_where_nothing_is_chosen_by_it():
    settings = EvaluationSettings(target_language="Chinese", unit="char", tokenizer="zh")
    assert (settings.latency_unit, settings.bleu_tokenizer) == ("char", "zh")

"""Language tags in every spelling, and how texts are written. Expected values: ISO 639, Unicode's script property."""

import pytest

from simulsa_plugin.languages import is_language, is_without_spaces, language_code, writing_of_language, writing_of_text

ZH = "今天天气很好我们一起去公园散步吧"
TH = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนกันเถอะ"


@pytest.mark.parametrize(("tag", "code"), [
    ("ZH", "zh"), ("zh_CN", "zh"), (" de ", "de"), ("jpn", "ja"), ("tha", "th"), ("khm", "km"), ("ger", "de"),
    ("iw", "he"), ("arb", "ar"), ("fil_ph", "fil"), ("nso_za", "nso"), ("sr-Latn", "sr"), ("tlh_piqd", "tlh"),
    ("German", "german"),
])  # fmt: skip
def test_a_code_is_short_and_has_no_region(tag, code):
    assert language_code(tag) == code


@pytest.mark.parametrize("tag", ["de", "DE", "zh_CN", "cmn_hans_cn", "yue_hant_hk", "es_419", "kea_cv", "jpn", "pt-br"])
def test_codes_of_corpora_are_languages(tag):
    assert is_language(tag)


@pytest.mark.parametrize("tag", ["", "cn", "jp", "xx", "chinese", "German", "en de", "de,fr", "und", "mul", "zxx"])
def test_regions_names_and_lists_are_not_languages(tag):
    assert not is_language(tag)


@pytest.mark.parametrize(("text", "writing"), [
    (ZH, "Chinese"), ("今日はとても良い天気です", "Japanese"), ("오늘은 날씨가 좋습니다", "Korean"), (TH, "unspaced"),
    ("ມື້ນີ້ອາກາດດີ", "unspaced"), ("ថ្ងៃនេះអាកាសធាតុល្អ", "unspaced"), ("ယနေ့ ရာသီဥတု ကောင်းသည်", "unspaced"),
    ("Сегодня хорошая погода", "spaced"), ("Hôm nay trời đẹp", "spaced"), ("आज मौसम अच्छा है", "spaced"),
    ("iPhone15ProMax今天发布", "Chinese"), ("Der Film heißt 你好", "spaced"), ("OK", "spaced"), ("2026, 100 %", None),
    ("", None),
])  # fmt: skip
def test_a_text_is_written_as_most_of_its_words(text, writing):
    assert writing_of_text(text) == writing


@pytest.mark.parametrize(("text", "without"), [
    (ZH, True), (TH, True), ("今天 天气 很 好", False), ("오늘은 날씨가 좋습니다", False),
    ("Donaudampfschifffahrt", False), ("", False),
])  # fmt: skip
def test_spaces_that_a_segmenter_put_in_make_words(text, without):
    assert is_without_spaces(text) == without


def test_the_script_of_a_tag_wins_over_that_of_the_language():
    assert [writing_of_language(tag) for tag in ("nan", "nan-Latn", "zh-Hant-TW", "bo")] == [
        "Chinese", "spaced", "Chinese", "unspaced"]  # fmt: skip

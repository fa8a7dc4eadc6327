"""Whether references fit the unit and tokenizer that the target language chooses, before anything is decoded."""

import pytest
from helpers.fakes import ClockModel, write_noise

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.during_training import plan_training_evaluation
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.reference_checks import check_references, segment_warnings
from simulsa_plugin.evaluation.run import plan_cells, run_evaluation
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow
from simulsa_plugin.segments import ReferenceSegment

DE = "Heute ist das Wetter sehr gut."
ZH = "今天天气很好我们一起去公园散步吧"
JA = "今日はとても良い天気です"
KO = "오늘은 날씨가 매우 좋습니다"
TH = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนกันเถอะ"


def rows_of(*texts, audio=""):
    prompt = Prompt(({"role": "user", "content": "<audio>T"},))
    return [Sample(row, prompt, text, audio) for row, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "language"),
    [(DE, None), (DE, "de"), (DE, "fr"), (ZH, "zh"), (ZH, "yue"), (ZH, "zh_TW"), (TH, "th"), (TH, "tha"), ("12", "zh")],
)
def test_references_in_the_writing_of_the_language_pass(text, language):
    assert check_references("toy", rows_of(text, text), EvaluationSettings(target_language=language)) == []


@pytest.mark.parametrize(("text", "language", "written", "example"), [
    (ZH, None, "in Chinese characters", "(zh)"), (ZH, "de", "in Chinese characters", "(zh)"),
    (JA, "zh", "in Japanese", "(ja)"), (KO, None, "in Korean", "(ko)"),
    (TH, None, "in a script without spaces", "(such as th, "),
    (TH, "zh", "in a script without spaces", "(such as th, "),
    (DE, "zh", "with spaces between words", "(such as en or de"),
    (DE, "th", "with spaces between words", "(such as en or de"),
])  # fmt: skip
def test_references_in_another_writing_are_refused_with_the_next_step(text, language, written, example):
    with pytest.raises(UsageError) as raised:
        check_references("toy", rows_of(text, text, "OK"), EvaluationSettings(target_language=language))
    shown = repr(language) if language else "not set"
    message = str(raised.value)
    assert f"of 3 references of toy are written {written}, and simulsa_target_language is {shown}" in message
    assert f"Set simulsa_target_language to their language {example}" in message


def test_a_unit_and_a_tokenizer_that_are_named_are_taken():
    named = EvaluationSettings(unit="char", tokenizer="13a")
    assert check_references("toy", rows_of(ZH), named) == []
    with pytest.raises(UsageError, match="BLEU tokenizer 13a"):  # only the unit is named
        check_references("toy", rows_of(ZH), EvaluationSettings(unit="char"))


def test_words_named_for_a_text_without_spaces_are_warned_about():
    (warning,) = check_references("toy", rows_of(ZH, ZH), EvaluationSettings(unit="word", tokenizer="zh"))
    assert warning.startswith("2 of 2 references of toy are written without spaces")
    segmented = rows_of("今天 天气 很 好", "我们 一起 去 公园")
    assert check_references("toy", segmented, EvaluationSettings(unit="word", tokenizer="13a")) == []


def test_a_few_references_without_spaces_are_warned_about_in_words_alone():
    assert [line[:6] for line in check_references("toy", rows_of(DE, DE, DE, ZH), EvaluationSettings())] == ["1 of 4"]
    assert check_references("toy", rows_of(ZH, ZH, DE), EvaluationSettings(target_language="zh")) == []


def test_rows_that_cannot_be_decoded_say_nothing():
    assert check_references("toy", [UnusableRow(0, "no_audio")], EvaluationSettings(target_language="zh")) == []


def test_a_tokenizer_that_is_not_there_is_refused_before_anything_is_decoded(tmp_path):
    with pytest.raises(UsageError, match="The BLEU tokenizer is '14b'"):
        run_evaluation(ClockModel(), "toy", rows_of(DE), EvaluationSettings(tokenizer="14b"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_language_decodes_no_chinese(tmp_path):
    with pytest.raises(UsageError, match="1 of 1 references of toy are written in Chinese"):
        run_evaluation(ClockModel(text=ZH), "toy", rows_of(ZH), EvaluationSettings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_that_decodes_is_refused_likewise(tmp_path):
    rows = rows_of(ZH, audio=write_noise(tmp_path / "a.wav", 1.0))
    settings = EvaluationSettings()
    with pytest.raises(UsageError, match="1 of 1 references of toy are written in Chinese"):
        plan_training_evaluation("toy", rows, plan_cells(settings), settings)
    settings = EvaluationSettings(unit="word", tokenizer="zh")
    plan, _ = plan_training_evaluation("toy", rows, plan_cells(settings), settings)
    assert plan.warnings[0].startswith("1 of 1 references of toy are written without spaces")


@pytest.mark.parametrize(("language", "text"), [("th", TH), ("my", "ယနေ့ရာသီဥတုအလွန်ကောင်းသည်"), ("zh", ZH)])
def test_a_perfect_output_without_spaces_has_bleu_100_and_less_latency_than_the_whole_source(tmp_path, language, text):
    seconds = 0.1 * len(text.encode())  # the model writes a byte for each 100 ms
    rows = rows_of(text, audio=write_noise(tmp_path / "a.wav", seconds))
    settings = EvaluationSettings(chunks=(500,), rollbacks=(0,), target_language=language)
    _, cell = run_evaluation(ClockModel(text=text), "toy", rows, settings, tmp_path / "out")
    assert cell["BLEU"] == pytest.approx(100)
    assert 0 < cell["LAAL"] < 1000  # two chunks: it is never further behind


def test_recordings_without_segments_and_segments_that_overlap_are_warned_of():
    def recording(row, *spans):
        segments = tuple(ReferenceSegment(*span, DE) for span in spans)
        return Sample(row, Prompt(()), DE, "", segments=segments)

    fine, overlapping = recording(0, (0.0, 2.0), (2.0, 1.0)), recording(1, (0.0, 9.0), (1.0, 1.0), (2.0, 1.0))
    assert segment_warnings("toy", [fine, UnusableRow(3, "no_audio")]) == []
    without, overlaps = segment_warnings("toy", [fine, overlapping, recording(2)])
    assert without.startswith("1 of 3 rows of toy have no `segments`: each is scored as one segment")
    assert overlaps.startswith("2 of 5 reference segments of toy begin before an earlier one has ended.")

"""CoVoST 2 as it lies on disk: Common Voice's table joined with the translations, or the published parquet files."""

import pyarrow
import pyarrow.parquet
import pytest
from corpora_files import read_refusal, rows, write_text

from simulsa_plugin.errors import UsageError

# As Common Voice 4 has them: quotes that nobody closes, NA, several clips of a sentence.
VALIDATED = (
    "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
    'a1\ten_1.mp3\t"Yes.\t2\t0\t\t\t\n'
    "a2\ten_2.mp3\tNA\t2\t0\ttwenties\tmale\tus\n"
    "a3\ten_3.mp3\tHe said: \"\"No.\"\t2\t0\t\t\t\n"
    "a4\ten_4.mp3\tNo.\t2\t0\t\t\t\n"
    "a5\ten_5.mp3\tMore.\t2\t0\t\t\t\n"
    "a6\ten_6.mp3\tTest.\t2\t0\t\t\t\n"
)  # fmt: skip
TRANSLATIONS = (
    "path\ttranslation\tsplit\n"
    'en_3.mp3\tEr sagte: „Nein.""\ttrain\n'
    'en_1.mp3\t"Ja.\ttrain\n'
    "en_2.mp3\tNA\ttrain\n"
    "en_7.mp3\tNie gehört.\ttrain\n"
    "en_6.mp3\tProbe.\ttest\n"
    "en_4.mp3\t\ttrain\n"
    "en_1.mp3\tJa, noch einmal.\ttrain\n"
    "en_5.mp3\tMehr.\tdev\n"
)
TRAIN = [
    ("en_3", "clips/en_3.mp3", None, 'Er sagte: „Nein.""'),
    ("en_1", "clips/en_1.mp3", None, '"Ja.'),
    ("en_2", "clips/en_2.mp3", None, "NA"),
    ("en_7.mp3", "not_in_common_voice"),
    ("en_4", "clips/en_4.mp3", None, ""),
    ("en_1", "clips/en_1.mp3", None, "Ja, noch einmal."),
]


@pytest.fixture
def corpus(tmp_path):
    write_text(tmp_path / "validated.tsv", VALIDATED)
    write_text(tmp_path / "covost_v2.en_de.tsv", TRANSLATIONS)
    return tmp_path


def write_parquet(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = [{"audio": {"bytes": text.encode(), "path": f"{text}.mp3"}, "translation": text, "id": f"id {text}"}
             for text in texts]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)


def texts(found):
    return [row[3] for row in found]


def test_rows_of_a_split_are_joined_on_the_path_in_the_order_of_the_translations(corpus):
    assert rows("covost2", corpus, "train") == TRAIN
    assert rows("covost2", corpus, "test") == [("en_6", "clips/en_6.mp3", None, "Probe.")]
    assert texts(rows("covost2", corpus, "dev", "test")) == ["Probe.", "Mehr."]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(corpus):
    write_text(corpus / "validated.tsv", VALIDATED, bom=True, crlf=True)
    write_text(corpus / "covost_v2.en_de.tsv", TRANSLATIONS, bom=True, crlf=True)
    assert rows("covost2", corpus, "train") == TRAIN


def test_what_covost_adds_to_train_is_part_of_it(corpus):
    # get_v2_split in covost/get_covost_splits.py of facebookresearch: train, and nothing else, takes its _covost.
    write_text(
        corpus / "covost_v2.en_de.tsv",
        "path\ttranslation\tsplit\nen_1.mp3\teins\ttrain\nen_2.mp3\tzwei\ttrain_covost\nen_3.mp3\tdrei\tdev\n"
        "en_4.mp3\tvier\tdev_covost\nen_5.mp3\tfünf\ttest\nen_6.mp3\tsechs\ttest_covost\n",
    )
    assert texts(rows("covost2", corpus, "train")) == ["eins", "zwei"]
    assert texts(rows("covost2", corpus, "train_covost")) == ["zwei"]
    assert texts(rows("covost2", corpus, "train", "train_covost")) == ["eins", "zwei"]
    assert texts(rows("covost2", corpus, "dev")) == ["drei"]
    assert texts(rows("covost2", corpus, "test")) == ["fünf"]


def test_backslashes_are_read_as_the_scripts_of_the_corpus_read_them(corpus):
    # load_df_from_tsv in get_covost_splits.py: escapechar="\\", quoting=csv.QUOTE_NONE, na_filter=False
    write_text(corpus / "covost_v2.en_de.tsv", 'path\ttranslation\tsplit\nen_1.mp3\t\\"Ja\\" \\\\ nein\ttrain\n')
    assert texts(rows("covost2", corpus, "train")) == ['"Ja" \\ nein']


def test_columns_may_stand_in_another_order_and_be_more(corpus):
    write_text(corpus / "covost_v2.en_de.tsv", "split\tx\ttranslation\tpath\ntrain\t1\tJa.\ten_1.mp3\n")
    assert rows("covost2", corpus, "train") == [("en_1", "clips/en_1.mp3", None, "Ja.")]


def test_rows_with_a_field_too_many_or_too_few_are_dropped_with_their_line(corpus):
    write_text(
        corpus / "covost_v2.en_de.tsv",
        "path\ttranslation\tsplit\nen_1.mp3\tJa\t.\ttrain\nen_2.mp3 Ja. train\n\nen_3.mp3\tJa.\ttrain\n",
    )
    assert rows("covost2", corpus, "train") == [
        ("line 2", "broken_row"), ("line 3", "broken_row"), ("en_3", "clips/en_3.mp3", None, "Ja."),
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["en", "en and above"])
def test_the_folder_above_the_languages_may_be_given(tmp_path, place):
    write_text(tmp_path / "en" / "validated.tsv", VALIDATED)
    above = tmp_path if place == "en and above" else tmp_path / "en"
    write_text(above / "covost_v2.en_de.tsv", TRANSLATIONS)
    assert [row[1] for row in rows("covost2", tmp_path, "test")] == ["en/clips/en_6.mp3"]


def test_a_target_language_without_region_finds_the_only_table_with_one(corpus):
    write_text(corpus / "covost_v2.en_zh-CN.tsv", "path\ttranslation\tsplit\nen_1.mp3\t是。\ttrain\n")
    assert texts(rows("covost2", corpus, "train", target="zh")) == ["是。"]
    assert texts(rows("covost2", corpus, "train", target="zh-CN")) == ["是。"]
    write_text(corpus / "covost_v2.en_zh-TW.tsv", "path\ttranslation\tsplit\nen_1.mp3\t對。\ttrain\n")
    assert texts(rows("covost2", corpus, "train", target="zh-CN")) == ["是。"]
    assert read_refusal("covost2", corpus, "train", target="zh") == (
        f"{corpus} needs one table covost_v2.en_zh.tsv, there or in en/; found: covost_v2.en_zh-CN.tsv, "
        "covost_v2.en_zh-TW.tsv. Set simulsa_source_language and simulsa_target_language as its name has them."
    )


@pytest.mark.parametrize(
    "name",
    ["covost_v2.en_zh-CN.train.tsv", "covost_v2.en_zhx.tsv", "covost_v2.fr_zh.tsv", "covost_v2.en_zh-CN.tsv.bak",
     "covost_v2.enxzh.tsv", "covost_v2.zh_en.tsv"],
)  # fmt: skip
def test_no_other_table_is_taken_for_the_pair(tmp_path, name):
    write_text(tmp_path / "validated.tsv", VALIDATED)
    write_text(tmp_path / name, TRANSLATIONS)
    assert "needs one table covost_v2.en_zh.tsv" in read_refusal("covost2", tmp_path, "train", target="zh")


def test_a_language_is_no_pattern(corpus):
    assert "needs one table covost_v2.en_d..tsv" in read_refusal("covost2", corpus, "train", target="d.")
    assert "needs one table" in read_refusal("covost2", corpus, "train", target="*")


@pytest.mark.parametrize(("split", "said"), [(("valid",), "valid"), (("train", "valid", "x"), "valid, x")])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(corpus, split, said):
    assert read_refusal("covost2", corpus, *split) == (
        f"{corpus / 'covost_v2.en_de.tsv'} has no split {said}; there: train (6), test (1), dev (1). Set simulsa_split."
    )


def test_a_column_of_strange_splits_makes_no_long_message(corpus):
    many = "".join(f"en_1.mp3\tJa.\t{number}\x0b{'x' * 1000}\n" for number in range(1000))
    write_text(corpus / "covost_v2.en_de.tsv", f"path\ttranslation\tsplit\n{many}")
    assert len(read_refusal("covost2", corpus, "train")) < 2000


def test_missing_tables_and_columns_are_named(corpus):
    write_text(corpus / "covost_v2.en_de.tsv", "path\ttext\n")
    assert "has no column translation, split; its columns: path, text." in read_refusal("covost2", corpus, "train")
    write_text(corpus / "validated.tsv", "clip\n")
    assert "validated.tsv has no column path; its columns: clip." in read_refusal("covost2", corpus, "train")
    (corpus / "validated.tsv").unlink()
    assert "has no validated.tsv, neither there nor in en/." in read_refusal("covost2", corpus, "train")
    (corpus / "covost_v2.en_de.tsv").unlink()
    assert "found: none." in read_refusal("covost2", corpus, "train")


@pytest.mark.parametrize("key", ["source", "target"])
def test_languages_are_asked_for_by_their_key(corpus, key):
    message = read_refusal("covost2", corpus, "train", error=UsageError, **{key: None})
    assert message.startswith(f"simulsa_{key}_language is not set")


def test_clips_may_lie_in_the_users_own_folder(corpus, tmp_path_factory):
    clips = tmp_path_factory.mktemp("clips")
    (clips / "en_6.mp3").write_bytes(b"ID3")
    assert rows("covost2", corpus, "test", audio=clips)[0][1] == str(clips / "en_6.mp3")


def test_published_parquet_files_of_the_pair_and_split_are_read(tmp_path):
    write_parquet(tmp_path / "en_zh-CN" / "train-00000-of-00002.parquet", "eins", "zwei")
    write_parquet(tmp_path / "en_zh-CN" / "train-00001-of-00002.parquet", "drei")
    write_parquet(tmp_path / "en_zh-CN" / "test-00000-of-00001.parquet", "vier")
    write_parquet(tmp_path / "en_de" / "train-00000-of-00001.parquet", "fünf")
    wanted = [(f"id {text}", (text.encode(), ".mp3"), None, text) for text in ("eins", "zwei", "drei")]
    assert rows("covost2", tmp_path, "train", target="zh-CN") == wanted
    assert rows("covost2", tmp_path, "train", target="zh") == wanted
    assert rows("covost2", tmp_path / "en_zh-CN", "train", target="zh-CN") == wanted
    assert texts(rows("covost2", tmp_path, "train", "test", target="zh")) == ["eins", "zwei", "drei", "vier"]
    assert texts(rows("covost2", tmp_path, "train")) == ["fünf"]


def test_no_other_pair_and_no_other_split_is_taken_for_what_is_asked(tmp_path):
    for name in ("en_zh-CN", "en_zh-TW"):
        write_parquet(tmp_path / name / "train.parquet", name)
    assert texts(rows("covost2", tmp_path, "train", target="zh-TW")) == ["en_zh-TW"]
    assert read_refusal("covost2", tmp_path, "train", target="zh") == (
        f"{tmp_path} has en_zh-CN, en_zh-TW. Set simulsa_target_language as the name of one has it."
    )
    assert read_refusal("covost2", tmp_path, "train", target="z") == (
        f"{tmp_path} has no split train; there: en_zh-CN/train.parquet, en_zh-TW/train.parquet. Set simulsa_split."
    )
    assert "has no split tra;" in read_refusal("covost2", tmp_path, "tra", target="zh-CN")
    write_parquet(tmp_path / "en_zh-CN" / "test-other-00000-of-00001.parquet", "x")
    assert read_refusal("covost2", tmp_path, "train", "test", target="zh-CN") == (
        f"{tmp_path / 'en_zh-CN'} has no split test; there: test-other-00000-of-00001.parquet, train.parquet. "
        "Set simulsa_split."
    )


def test_columns_of_parquet_files_are_named_by_the_recipe(tmp_path):
    table = [{"context": {"bytes": b"ID3", "path": None}, "instruction": "Translate.", "answer": "是。"}]
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "data" / "test-00000-of-00001.parquet")
    columns = {"audio": "context", "translation": "answer"}
    assert rows("covost2", tmp_path, "test", target="zh", columns=columns) == [("00000001", (b"ID3", ""), None, "是。")]
    message = read_refusal("covost2", tmp_path, "test", target="zh", columns={"sound": "context"}, error=UsageError)
    assert message.startswith("simulsa_columns names a role 'sound'; allowed: audio, translation, id, ")


def test_common_voice_goes_before_parquet_files_and_a_file_is_no_corpus(corpus):
    write_parquet(corpus / "train.parquet", "eins")
    assert rows("covost2", corpus, "train") == TRAIN
    assert read_refusal("covost2", corpus / "train.parquet", "train") == (
        f"{corpus / 'train.parquet'} is a file. Give its folder, or set simulsa_corpus to table."
    )

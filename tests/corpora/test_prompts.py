"""Prompts of corpora: what each template says, languages as corpora write them, prompts of the user's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from simulsa_plugin.corpora import prompts
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prompts import TranslationPrompt, known_prompts, translation_prompt
from simulsa_plugin.errors import UsageError
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.languages import language_code

TEMPLATES = Path(__file__).parents[2] / "data_templates"
TABLE = yaml.safe_load(Path(prompts.__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))
# All 102 languages of FLEURS, as its folders are called up to the first underscore.
FLEURS = (
    "af am ar as ast az be bg bn bs ca ceb ckb cmn cs cy da de el en es et fa ff fi fil fr ga gl gu ha he hi hr hu hy "
    "id ig is it ja jv ka kam kea kk km kn ko ky lb lg ln lo lt luo lv mi mk ml mn mr ms mt my nb ne nl nso ny oc om "
    "or pa pl ps pt ro ru sd sk sl sn so sr sv sw ta te tg th tr uk umb ur uz vi wo xh yo yue zu"
).split()
COVOST2 = "ar ca cy de en es et fa fr id it ja lv mn nl pt ru sl sv-SE ta tr zh-CN".split()
MUSTC = "ar cs de en es fa fr it nl pt ro ru tr vi zh".split()
EUROPARL_ST = "de en es fr it nl pl pt ro".split()


def text_of(prompt=None, template=None, source="en", target="de"):
    return translation_prompt(prompt, template, source, target).text


def refusal(*arguments):
    with pytest.raises(UsageError) as caught:
        translation_prompt(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("template", "name", "text", "system"),
    [
        ("qwen2_audio", "qwen2_audio_base",
         "<audio>Detect the language and translate the speech into Mandarin: <|en|>", ""),
        ("qwen2_omni", "qwen2_5_omni",
         "Listen to the provided English speech and produce a translation in Chinese text.<audio>",
         "You are a speech translation model."),
        ("qwen3_omni", "qwen3_omni",
         "<audio>Listen to the provided English speech and produce a translation in Chinese text.", ""),
        ("qwen3_omni_nothink", "qwen3_omni",
         "<audio>Listen to the provided English speech and produce a translation in Chinese text.", ""),
        ("gemma3n", "gemma",
         "Translate the following speech segment in English into Chinese text. "
         "Only output the translation, with no newlines.<audio>", ""),
        ("gemma4n", "gemma",
         "Translate the following speech segment in English into Chinese text. "
         "Only output the translation, with no newlines.<audio>", ""),
        ("minicpm_o", "plain", "<audio>Translate the speech into Chinese.", ""),
        ("a_template_of_tomorrow", "plain", "<audio>Translate the speech into Chinese.", ""),
        (None, "plain", "<audio>Translate the speech into Chinese.", ""),
    ],
)  # fmt: skip
def test_every_template_has_a_default(template, name, text, system):
    assert translation_prompt(None, template, "en", "zh-CN") == TranslationPrompt(name, text, system)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen2_audio_instruct", "<audio>Translate the speech into Chinese and only output the translation:"),
        ("minicpm_o_zh", "<audio>请仔细听取音频片段，并将内容准确记录下来。"),
        ("qwen3_omni", "<audio>Listen to the provided English speech and produce a translation in Chinese text."),
    ],
)
def test_a_prompt_can_be_named_whatever_the_template(name, text):
    assert translation_prompt(name, "qwen2_audio", "en", "zh") == TranslationPrompt(name, text, "")


def test_the_prompt_of_the_example_row_is_the_default_for_it():
    row = json.loads((TEMPLATES / "covost2_en_zh.example.jsonl").read_text(encoding="utf-8"))
    assert row["messages"][0]["content"] == text_of(template="qwen2_audio", target="zh-CN")


def test_every_audio_template_of_llamafactory_has_exactly_one_default():
    from llamafactory.data.template import TEMPLATES as REGISTERED

    audio = {name for name, template in REGISTERED.items() if getattr(template.mm_plugin, "audio_token", None)}
    listed = [template for entry in TABLE["prompts"].values() for template in entry["templates"]]
    assert {"qwen2_audio", "qwen2_omni", "qwen3_omni", "gemma3n", "minicpm_o"} <= audio
    assert sorted(listed) == sorted(audio)


@pytest.mark.parametrize("name", known_prompts())
def test_every_prompt_holds_the_audio_once_says_its_source_and_can_be_filled_in(name):
    entry = TABLE["prompts"][name]
    assert set(entry) <= {"text", "system", "templates", "languages", "targets", "source"}
    assert entry["text"].count("<audio>") == 1 and "\n" not in entry["text"]
    assert entry["source"].strip()
    filled = translation_prompt(name, None, "en", entry.get("targets", ["de"])[0])
    assert filled.name == name
    assert "{" not in filled.text and "}" not in filled.text


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("en", "English"), ("en_us", "English"), ("en-US", "English"), ("eng", "English"), ("EN", "English"),
        ("de", "German"), ("de_de", "German"), ("zh", "Chinese"), ("zh-CN", "Chinese"), ("zh_cn", "Chinese"),
        ("zh-TW", "Chinese"), ("cmn_hans_cn", "Chinese"), ("yue_hant_hk", "Cantonese"), ("sv-SE", "Swedish"),
        ("pt_br", "Portuguese"), ("fil_ph", "Filipino"), ("no", "Norwegian"), ("nb_no", "Norwegian"),
        ("ckb_iq", "Central Kurdish"), ("ja", "Japanese"), ("or_in", "Odia"),
    ],
)  # fmt: skip
def test_languages_are_named_as_corpora_write_them(language, name):
    assert text_of("plain", target=language) == f"<audio>Translate the speech into {name}."


def test_no_language_of_the_known_corpora_lacks_a_name():
    codes = [language_code(language) for language in (*COVOST2, *MUSTC, *EUROPARL_ST, *FLEURS)]
    assert [code for code in codes if not TABLE["languages"].get(code, "\n").isprintable()] == []


def test_the_table_of_languages_is_text_under_short_codes():
    assert all(isinstance(word, str) for pair in TABLE["languages"].items() for word in pair)  # YAML's no is not False
    assert all(language_code(code) == code for code in TABLE["languages"])
    longer = ["ara", "cmn", "deu", "eng", "fra", "jpn", "kor", "por", "spa", "zho"]
    assert {language_code(code) for code in longer} <= set(TABLE["languages"])


@pytest.mark.parametrize("target", ["zh", "zh-CN", "zh_cn", "cmn_hans_cn"])
def test_qwen2_audio_base_says_mandarin_and_the_others_chinese(target):
    assert "into Mandarin:" in text_of("qwen2_audio_base", target=target)
    assert "into Chinese and" in text_of("qwen2_audio_instruct", target=target)
    assert "into German:" in text_of("qwen2_audio_base", target="de")
    assert text_of("qwen2_audio_base", source=target, target="en").endswith("into English: <|zh|>")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Translate this into {target}:", "<audio>Translate this into German:"),
        ("From {source} to {target}: <audio>", "From English to German: <audio>"),
        ("<audio>{source_code} → {target_code}", "<audio>en → de"),
        ("<audio>", "<audio>"),
        ("<audio>übersetze!", "<audio>übersetze!"),
        ("请将这段语音翻译成中文。", "<audio>请将这段语音翻译成中文。"),  # no space, and no name
        ('Translate, as {"content": ""} or {} or { target } or {target.__class__} or {0}',
         '<audio>Translate, as {"content": ""} or {} or { target } or {target.__class__} or {0}'),
        ("50 % of {{target}}", "<audio>50 % of {German}"),
    ],
)  # fmt: skip
def test_a_prompt_of_the_users_own(prompt, text):
    assert translation_prompt(prompt, "qwen2_omni", "en_us", "de_de") == TranslationPrompt("", text, "")


def test_a_prompt_without_placeholders_needs_no_language():
    assert translation_prompt("Say it in German.", None, None, None).text == "<audio>Say it in German."
    assert translation_prompt("Say it in German.", None, "tlh", "tlh").text == "<audio>Say it in German."
    assert translation_prompt("plain", None, None, "de").text == "<audio>Translate the speech into German."


def test_a_mistyped_name_is_corrected_and_no_prompt():
    assert refusal("qwen2_audio_bas", None, "en", "de") == (
        "simulsa_prompt is 'qwen2_audio_bas', and no prompt has that name: did you mean qwen2_audio_base? "
        "Or write a whole sentence."
    )
    assert refusal("Translate", None, "en", "de") == (
        "simulsa_prompt is 'Translate', and no prompt has that name: allowed: qwen2_audio_base, qwen2_audio_instruct, "
        "qwen2_5_omni, qwen3_omni, gemma, minicpm_o_zh, minicpm_o_en, plain. Or write a whole sentence."
    )


@pytest.mark.parametrize("prompt", ["", " ", "\n"])
def test_an_empty_prompt_is_refused(prompt):
    assert refusal(prompt, None, "en", "de").startswith("simulsa_prompt is empty. Set it to one of qwen2_audio_base, ")


def test_an_unknown_placeholder_is_refused():
    assert refusal("Translate into {language}.", None, "en", "de") == (
        "simulsa_prompt has the placeholder {language}; allowed: {source}, {source_code}, {target}, {target_code}. "
        "For the text itself, put spaces between the braces and the word."
    )


def test_audio_stands_once_and_other_media_never():
    assert refusal("<audio>Translate<audio>", None, "en", "de") == (
        "simulsa_prompt has <audio> 2 times; allowed: once. Take the others out."
    )
    assert refusal("<image>Translate this.", None, "en", "de") == (
        "simulsa_prompt has <image>, and the rows of a corpus have audio only. Take it out."
    )


def test_a_language_that_is_not_set_is_asked_for_by_its_key():
    assert refusal(None, "minicpm_o", "en", None) == (
        "The prompt plain says {target}, and simulsa_target_language is not set. "
        "Add simulsa_target_language=de, for example."
    )
    assert refusal(None, "qwen2_audio", None, "zh") == (
        "The prompt qwen2_audio_base says {source_code}, and simulsa_source_language is not set. "
        "Add simulsa_source_language=de, for example."
    )
    assert refusal("Into {target}, please", None, "en", None) == (
        "simulsa_prompt says {target}, and simulsa_target_language is not set. "
        "Add simulsa_target_language=de, for example."
    )


def test_a_language_without_a_name_is_refused():
    assert refusal("plain", None, "en", "tlh_piqd") == (
        "The prompt plain says {target}, and simulsa_target_language is 'tlh_piqd', which is not a known code; known "
        "are en, zh-CN, cmn_hans_cn and the like. Correct it, or write the prompt without that placeholder as "
        "simulsa_prompt."
    )
    assert "{source_code}, and simulsa_source_language is 'Klingon'" in refusal(
        "qwen2_audio_base", None, "Klingon", "de"
    )


def test_a_prompt_that_was_published_for_one_language_is_refused_for_others():
    assert text_of("minicpm_o_zh", target="cmn_hans_cn") == "<audio>请仔细听取音频片段，并将内容准确记录下来。"
    assert refusal("minicpm_o_en", None, "en", "de") == (
        "The prompt minicpm_o_en is for translation into en, and simulsa_target_language is 'de'. Leave simulsa_prompt "
        "out, or set it to another of qwen2_audio_base, qwen2_audio_instruct, qwen2_5_omni, qwen3_omni, gemma, "
        "minicpm_o_zh, minicpm_o_en, plain."
    )


def test_the_yaml_is_read_when_the_first_prompt_is_asked_for():
    program = (
        "import pathlib; pathlib.Path.read_text = None\n"
        "import simulsa_plugin.corpora.prompts, sys\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'llamafactory', 'numpy', 'datasets'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_linked_table_is_that_of_the_package():
    # By its text: where the installed package is tested, the one in the tree may be gone.
    assert str((TEMPLATES / "prompts.yaml").readlink()) == "../simulsa_plugin/corpora/prompts.yaml"
    assert Path(prompts.__file__).parts[-3:] == ("simulsa_plugin", "corpora", "prompts.py")


def test_the_readme_shows_every_prompt_with_its_text_and_templates():
    readme = (TEMPLATES / "README.md").read_text(encoding="utf-8")
    table = readme.split("| default of template |")[1].split("\n\n")[0]
    lines = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert list(lines) == list(known_prompts())
    for name, entry in TABLE["prompts"].items():
        assert f"`{entry['text']}`".replace("|", r"\|") in lines[name]
        assert all(f"`{template}`" in lines[name].split(" | ")[1] for template in entry["templates"])


@pytest.mark.parametrize(
    ("corpus", "source", "target", "splits"),
    [
        ("covost2", "en", "zh", ("train", "test")),
        ("covost2", "en", "zh-CN", ("train", "test")),
        ("mustc", "en", "de", ("train", "tst-COMMON")),
        ("fleurs", "en_us", "cmn_hans_cn", ("train", "test")),
        ("europarl_st", "en", "de", ("train", "test")),
        ("kaldi", "en", "de", ("train", "test")),
        ("nemo", "en", "de", ("train", "test")),
        ("lhotse", "en", "de", ("train", "test")),
        ("table", "en", "de", ("train", "test")),
    ],
)
def test_the_template_has_the_entries_that_the_commands_write(corpus, source, target, splits):
    entries = json.loads((TEMPLATES / "dataset_info.json").read_text(encoding="utf-8"))
    settings = CorpusSettings(corpus=corpus, source_language=source, target_language=target)
    for split in splits:
        name = settings.name((split,))
        assert entries[name] == {"file_name": f"{name}.jsonl", **SHAREGPT_ENTRY}


def test_llamafactory_finds_every_entry_of_the_template():
    from llamafactory.data.parser import get_dataset_list

    names = list(json.loads((TEMPLATES / "dataset_info.json").read_text(encoding="utf-8")))
    found = get_dataset_list(names, str(TEMPLATES))
    assert [entry.dataset_name for entry in found] == [f"{name}.jsonl" for name in names]
    assert {(entry.formatting, entry.messages, entry.audios, entry.role_tag) for entry in found} == {
        ("sharegpt", "messages", "audios", "role")
    }

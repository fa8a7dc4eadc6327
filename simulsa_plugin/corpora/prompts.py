"""What the user's turn says in the rows of a corpus: published prompts by name, or the user's own.

The prompts, where they were published, and the names of languages stand in prompts.yaml beside this file.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simulsa_plugin.errors import UsageError
from simulsa_plugin.languages import language_code

PLAIN = "plain"  # the prompt of templates for which prompts.yaml has none
AUDIO_TAG = "<audio>"  # where LLaMA-Factory puts the audio
OTHER_MEDIA = ("<image>", "<video>")
# Placeholder → the key of the recipe that fills it.
PROMPT_PLACEHOLDERS = {
    "source": "simulsa_source_language",
    "source_code": "simulsa_source_language",
    "target": "simulsa_target_language",
    "target_code": "simulsa_target_language",
}
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # what looks like this was meant as the name of a prompt
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")  # every other brace is text


@dataclass(frozen=True)
class TranslationPrompt:
    """A prompt, filled in.

    Attributes:
        name: in prompts.yaml; empty for the user's own.
        text: the user's turn; `<audio>` stands in it once.
        system: the system turn; empty leaves the template's own.
    """

    name: str
    text: str
    system: str


def translation_prompt(
    prompt: str | None, template: str | None, source_language: str | None, target_language: str | None
) -> TranslationPrompt:
    """Return the prompt of a recipe, with its languages filled in.

    Args:
        prompt: `simulsa_prompt`: a name in prompts.yaml, or the prompt itself; None takes the template's. A single word
            of letters, digits, `_`, `.` and `-` is a name. In a prompt of the user's own `{source}`, `{target}`,
            `{source_code}` and `{target_code}` are filled in; braces around anything but a single identifier are text.
            Where `<audio>` is missing, it is put in front.
        template: LLaMA-Factory's; one that prompts.yaml does not list takes the prompt `plain`.
        source_language: as the corpus writes it (`en`, `en_us`); only needed where the prompt names it.
        target_language: likewise (`zh`, `zh-CN`, `cmn_hans_cn`).

    Raises:
        UsageError: no prompt has this name; the prompt has an unknown placeholder, several `<audio>`, or other media; a
            language is needed and not set, or is not a known code; the prompt has no such target language.
    """
    if prompt is None:
        return _published(_default_name(template), source_language, target_language)
    if prompt in known_prompts():
        return _published(prompt, source_language, target_language)
    if _NAME.fullmatch(prompt):
        raise _unknown_name(prompt)
    text = _check_prompt(prompt)
    names = _prompts_file()["languages"]
    return TranslationPrompt("", _fill_languages(text, "simulsa_prompt", source_language, target_language, names), "")


def known_prompts() -> tuple[str, ...]:
    """Return the names of the prompts, in the order of prompts.yaml."""
    return tuple(_prompts_file()["prompts"])


def _published(name: str, source_language: str | None, target_language: str | None) -> TranslationPrompt:
    entry = _prompts_file()["prompts"][name]
    targets = entry.get("targets")
    if targets and target_language is not None and language_code(target_language) not in targets:
        raise UsageError(
            f"The prompt {name} is for translation into {', '.join(targets)}, and simulsa_target_language is "
            f"{target_language!r}. Leave simulsa_prompt out, or set it to another of {_known_in_words()}."
        )
    names = {**_prompts_file()["languages"], **entry.get("languages", {})}
    text = _fill_languages(entry["text"], f"The prompt {name}", source_language, target_language, names)
    return TranslationPrompt(name, text, entry.get("system", ""))


def _default_name(template: str | None) -> str:
    entries = _prompts_file()["prompts"].items()
    return next((name for name, entry in entries if template in entry["templates"]), PLAIN)


def _check_prompt(prompt: str) -> str:
    """Check the user's own prompt, and return it with `<audio>` once."""
    if not prompt.strip():
        raise UsageError(
            f"simulsa_prompt is empty. Set it to one of {_known_in_words()}, write the prompt, or leave the key out."
        )
    unknown = [name for name in _PLACEHOLDER.findall(prompt) if name not in PROMPT_PLACEHOLDERS]
    if unknown:
        raise UsageError(
            f"simulsa_prompt has the placeholder {{{unknown[0]}}}; allowed: "
            f"{', '.join(f'{{{name}}}' for name in PROMPT_PLACEHOLDERS)}. "
            "For the text itself, put spaces between the braces and the word."
        )
    media = [placeholder for placeholder in OTHER_MEDIA if placeholder in prompt]
    if media:
        raise UsageError(f"simulsa_prompt has {media[0]}, and the rows of a corpus have audio only. Take it out.")
    if prompt.count(AUDIO_TAG) > 1:
        raise UsageError(
            f"simulsa_prompt has {AUDIO_TAG} {prompt.count(AUDIO_TAG)} times; allowed: once. Take the others out."
        )
    return prompt if AUDIO_TAG in prompt else AUDIO_TAG + prompt


def _fill_languages(
    text: str, what: str, source_language: str | None, target_language: str | None, names: Mapping[str, str]
) -> str:
    languages = {"simulsa_source_language": source_language, "simulsa_target_language": target_language}

    def value(match: re.Match[str]) -> str:
        placeholder = match.group(1)
        key = PROMPT_PLACEHOLDERS[placeholder]
        language = languages[key]
        if language is None:
            raise UsageError(f"{what} says {match.group()}, and {key} is not set. Add {key}=de, for example.")
        code = language_code(language)
        if code not in names:
            raise UsageError(
                f"{what} says {match.group()}, and {key} is {language!r}, which is not a known code; "
                "known are en, zh-CN, cmn_hans_cn and the like. Correct it, or write the prompt without that "
                "placeholder as simulsa_prompt."
            )
        return code if placeholder.endswith("_code") else names[code]

    return _PLACEHOLDER.sub(value, text)


def _unknown_name(prompt: str) -> UsageError:
    near = difflib.get_close_matches(prompt, known_prompts(), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"allowed: {_known_in_words()}."
    return UsageError(f"simulsa_prompt is {prompt!r}, and no prompt has that name: {hint} Or write a whole sentence.")


def _known_in_words() -> str:
    return ", ".join(known_prompts())


@functools.cache
def _prompts_file() -> Any:
    """Read prompts.yaml, `prompts` and `languages`, when the first prompt is needed."""
    return yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))

"""Rows that cannot be augmented or evaluated, and rows at which a training stops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from simulsa_plugin.audio.references import is_reference


def unusable_reason(aligned: Mapping[str, Any]) -> str | None:
    """Return the reason why an aligned row cannot be augmented or evaluated; None where it can."""
    return _unusable_turns(aligned) or _unusable_media(aligned) or _unusable_text(aligned)


def _unusable_turns(aligned: Mapping[str, Any]) -> str | None:
    prompt, response = aligned["_prompt"] or [], aligned["_response"] or []
    if len(response) > 1:
        return "several_answers"  # ranking and KTO pairs, which supervised training drops
    if not prompt or not response:
        return "no_answer"
    if len(prompt) > 1:
        return "multi_turn"
    # `messages` cannot hold tools, so training would use another prompt than was scored
    if aligned["_tools"] or [prompt[0]["role"], response[0]["role"]] != ["user", "assistant"]:
        return "tools"
    return None


def _unusable_media(aligned: Mapping[str, Any]) -> str | None:
    if aligned["_images"] or aligned["_videos"]:
        return "other_media"
    if not aligned["_audios"]:
        return "no_audio"
    if not all(map(names_audio, aligned["_audios"])):
        return "audio_not_a_path"
    return None


def names_audio(audio: object) -> bool:
    """Return whether this is the path of a file, or a reference to audio in a store or in a container."""
    return isinstance(audio, str) and ("://" not in audio or is_reference(audio))


def _unusable_text(aligned: Mapping[str, Any]) -> str | None:
    from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

    ask, answer = aligned["_prompt"][0]["content"], aligned["_response"][0]["content"]
    if not isinstance(ask, str) or not isinstance(answer, str | None):
        return "not_text"
    answer = answer or ""
    if any(placeholder in ask + answer for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)):
        return "other_media"
    # LLaMA-Factory counts placeholders in the answer as well: one there would stop the training
    if len(aligned["_audios"]) != 1 or ask.count(AUDIO_PLACEHOLDER) != 1 or AUDIO_PLACEHOLDER in answer:
        return "not_one_audio"
    if not answer.strip():
        return "empty_reference"
    return None


def training_problem(
    turns: Iterable[Mapping[str, Any]], aligned: Mapping[str, Any], audio_token: str | None
) -> str | None:
    """Return what stops a training at the text of a row, such as a placeholder without its file, if anything."""
    from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

    texts = [turn["content"] or "" for turn in turns]
    if not all(isinstance(text, str) for text in texts):
        return "a turn is not text"
    placeholders = (AUDIO_PLACEHOLDER, "_audios"), (IMAGE_PLACEHOLDER, "_images"), (VIDEO_PLACEHOLDER, "_videos")
    for placeholder, column in placeholders:
        count, files = sum(text.count(placeholder) for text in texts), len(aligned[column] or [])
        if count != files:
            return f"{placeholder} occurs {count} times, and there are {files} files for it"
    if audio_token and audio_token != AUDIO_PLACEHOLDER and any(audio_token in text for text in texts):
        return f"the text holds the template's audio token {audio_token!r}, and no audio for it"
    return None

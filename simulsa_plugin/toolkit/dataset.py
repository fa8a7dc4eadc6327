"""LLaMA-Factory dataset entries to samples, through LLaMA-Factory's own loader and converters."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.model import Prompt, Sample, UnusableRow
from simulsa_plugin.toolkit.arguments import InferenceArguments, one_line, quiet_toolkit

AUDIO_PLACEHOLDER = "<audio>"


@dataclass(frozen=True)
class OfflineDataset:
    """One registered dataset, aligned to LLaMA-Factory's standard form.

    Attributes:
        name: its name in dataset_info.json.
        entry: its entry there, with an absolute file name.
        rows: LLaMA-Factory's aligned rows (`_prompt`, `_response`, `_system`, `_audios` …), one for each row of the
            file.
    """

    name: str
    entry: dict[str, Any]
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample | UnusableRow:
        """One row as a sample, or the reason why it is none."""
        aligned = self.rows[row]
        reason = _unusable(aligned)
        if reason:
            return UnusableRow(row, reason)
        prompt = Prompt(tuple(aligned["_prompt"]), aligned["_system"] or "", aligned["_tools"] or "")
        return Sample(row, prompt, aligned["_response"][0]["content"], os.path.abspath(aligned["_audios"][0]))

    def has_relative_audio(self) -> bool:
        """Whether any row names its audio by a relative path (see `_whole`: absolute ones stay absolute)."""
        return any(
            not os.path.isabs(audio)
            for audios in self.rows["_audios"]
            for audio in audios or []
            if isinstance(audio, str)
        )

    def sharegpt_rows(self) -> list[dict[str, Any]]:
        """All rows as sharegpt `messages` + `audios` with absolute audio paths, for a rewritten offline file."""
        return [_as_sharegpt(aligned) for aligned in self.rows]


def load_datasets(arguments: InferenceArguments, names: list[str]) -> list[OfflineDataset]:
    """Load registered datasets whole, in file order.

    Raises:
        DatasetError: no name, no dataset_info.json, an unknown name, a missing file, broken JSON, or no audio column.
    """
    if not names:
        raise DatasetError(
            "The recipe names no dataset. Add `dataset: NAME`, a name in dataset_info.json of dataset_dir."
        )
    info = read_dataset_info(Path(arguments.data.dataset_dir))
    return [_load(arguments, info, name) for name in names]


def read_dataset_info(dataset_dir: Path) -> dict[str, Any]:
    """The entries of `dataset_info.json`.

    Raises:
        DatasetError: it is missing or broken.
    """
    path = dataset_dir / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"No dataset is registered in {dataset_dir}: cannot read {path} ({error.strerror}). "
            "Set dataset_dir to a folder with a dataset_info.json."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON: {one_line(error)}.") from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
    return info


def _load(arguments: InferenceArguments, info: Mapping[str, Any], name: str) -> OfflineDataset:
    if name not in info:
        raise DatasetError(
            f"No dataset {name} in {arguments.data.dataset_dir}/dataset_info.json; "
            f"registered there: {', '.join(sorted(info)) or 'none'}."
        )
    if not isinstance(info[name], dict):
        raise DatasetError(
            f"The entry of {name} in {arguments.data.dataset_dir}/dataset_info.json is a {type(info[name]).__name__}; "
            'expected an object such as {"file_name": …}.'
        )
    entry = dict(info[name])
    if not (entry.get("columns") or {}).get("audios"):
        raise DatasetError(
            f"The dataset {name} has no audio: its entry in dataset_info.json names no `audios` column. "
            'Add "columns": {"messages": …, "audios": …}.'
        )
    if "file_name" in entry:
        path = (Path(arguments.data.dataset_dir) / entry["file_name"]).absolute()
        if not path.exists():
            raise DatasetError(f"The dataset {name} is registered, but its file {path} does not exist.")
        entry["file_name"] = str(path)
    rows = _align(arguments, name)
    if len(rows) == 0:
        raise DatasetError(f"The dataset {name} has no rows.")
    return OfflineDataset(name, entry, rows)


def _align(arguments: InferenceArguments, name: str) -> Any:
    with quiet_toolkit():
        from datasets.exceptions import DatasetGenerationError
        from llamafactory.data.loader import _load_single_dataset
        from llamafactory.data.parser import get_dataset_list
        from llamafactory.hparams import TrainingArguments

        try:
            (attributes,) = get_dataset_list([name], arguments.data.dataset_dir)
            attributes.num_samples = None  # the share is taken of the rows in the file
            training = TrainingArguments(output_dir=os.devnull)
            return _load_single_dataset(attributes, arguments.model, _whole(arguments.data), training)
        except KeyError as error:
            raise DatasetError(
                f"The dataset {name} cannot be loaded: its rows have no {error}. "
                "Check `columns` and `tags` of its entry in dataset_info.json."
            ) from error
        except (DatasetGenerationError, ValueError, TypeError, OSError) as error:
            cause = error.__cause__ or error
            raise DatasetError(f"The dataset {name} cannot be loaded: {one_line(cause)}") from error


def _whole(data_arguments: Any) -> Any:
    """Arguments that load every row and keep a relative audio path recognisable, by joining it to a relative folder."""
    whole = copy.copy(data_arguments)
    whole.max_samples, whole.streaming = None, False
    whole.overwrite_cache = True  # the cache remembers which audio was missing when it was made
    whole.media_dir = os.path.relpath(whole.media_dir or whole.dataset_dir)
    return whole


def _unusable(aligned: Mapping[str, Any]) -> str | None:
    """The reason why an aligned row cannot be cut, or None."""
    prompt, response, audios = aligned["_prompt"], aligned["_response"], aligned["_audios"]
    if not prompt or len(response or []) != 1:
        return "no_answer"
    if len(prompt) != 1:
        return "multi_turn"
    if aligned["_tools"]:
        return "tools"  # `messages` has no place for them: training would see another prompt than was scored
    if aligned["_images"] or aligned["_videos"]:
        return "other_media"
    if not audios:
        return "no_audio"
    if len(audios) != 1 or prompt[0]["content"].count(AUDIO_PLACEHOLDER) != 1:
        return "not_one_audio"
    if not isinstance(audios[0], str):
        return "audio_not_a_path"
    if not (response[0]["content"] or "").strip():
        return "empty_reference"
    return None


def _as_sharegpt(aligned: Mapping[str, Any]) -> dict[str, Any]:
    system = [{"role": "system", "content": aligned["_system"]}] if aligned["_system"] else []
    audios = [os.path.abspath(audio) if isinstance(audio, str) else audio for audio in aligned["_audios"] or []]
    return {"messages": [*system, *aligned["_prompt"], *aligned["_response"]], "audios": audios}

"""LLaMA-Factory dataset entries to samples, through LLaMA-Factory's own loader and converters."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError, StorageError, UsageError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, one_line, quieten_toolkit
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow
from simulsa_plugin.settings import LISTABLE, did_you_mean

SOURCES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
# Files, hubs and LLaMA-Factory's converters agree on no error of their own.
_LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, ImportError, RuntimeError, EOFError)
_MEDIA = ("_audios", "_images", "_videos")
# Files of a folder that rows are read from; audio beside them is not.
_TABLES = frozenset((".arrow", ".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".py", ".txt", ".yaml", ".zst"))
_BATCH_ROWS = 1000  # read at once where all rows are walked

# How a rewritten offline file stands in dataset_info.json: every role that LLaMA-Factory knows has its tag.
_REWRITTEN_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
_REWRITTEN_COLUMNS = {"tools": "_tools", "images": "_images", "videos": "_videos"}  # besides `messages` and `audios`


@dataclass(frozen=True)
class OfflineDataset:
    """One registered dataset, aligned to LLaMA-Factory's standard form.

    Attributes:
        name: its name in dataset_info.json.
        entry: its entry there, with an absolute file name.
        rows: LLaMA-Factory's aligned rows (`_prompt`, `_response`, `_system`, `_audios` …), one for each row of the
            file, or of its `split`. The files of a folder follow each other by name.
        audio_token: what the recipe's template puts in the place of audio; None where it is not known.
        home: the folder whose dataset_info.json has the entry; None where it came from elsewhere.
    """

    name: str
    entry: dict[str, Any]
    rows: Any
    audio_token: str | None = None
    home: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample | UnusableRow:
        """One row as a sample, or the reason why it is none."""
        aligned = self.rows[row]
        reason = _unusable(aligned)
        if reason:
            named = next(iter(aligned["_audios"] or ()), None)
            return UnusableRow(row, reason, _absolute(named) if isinstance(named, str) else None, self._source_id(row))
        prompt = Prompt(tuple(aligned["_prompt"]), aligned["_system"] or "")
        reference, audio = aligned["_response"][0]["content"], _absolute(aligned["_audios"][0])
        return Sample(row, prompt, reference, audio, self._source_id(row))

    def has_audio(self) -> bool:
        """Whether any row names audio; text may stand beside speech in a training."""
        return _names_audio(self.entry) and any(self._column("_audios"))

    def is_registered_in(self, folder: Path) -> bool:
        """Whether its entry was read from `folder/dataset_info.json`."""
        return self.home is not None and folder.is_dir() and os.path.samefile(self.home, folder)

    def has_relative_audio(self) -> bool:
        """Whether any row names audio, an image or a video by a path that another `dataset_dir` would not find."""
        return self._has_relative_media

    @functools.cached_property
    def _has_relative_media(self) -> bool:
        # `_whole` has made what LLaMA-Factory found relative, unless it was absolute in the file.
        return any(isinstance(path, str) and _is_relative(path) for path in self._paths())

    def rewritten_entry(self) -> dict[str, Any]:
        """The entry under which `sharegpt_rows`, written to a file, are these rows again; it lacks the `file_name`.

        Raises:
            DatasetError: the rows hold what such a file cannot carry.
        """
        self._refuse_loss()
        return self._rewritten()[0]

    def _rewritten(self) -> tuple[dict[str, Any], list[str]]:
        """The entry of `rewritten_entry`, and its columns besides messages and audio."""
        more = [column for column in _REWRITTEN_COLUMNS if self.entry.get("columns", {}).get(column)]
        columns = {"messages": "messages", "audios": "audios"} | {column: column for column in more}
        share = {key: self.entry[key] for key in ("num_samples",) if key in self.entry}
        return {"formatting": "sharegpt", "columns": columns, "tags": dict(_REWRITTEN_TAGS), **share}, more

    def sharegpt_rows(self) -> list[dict[str, Any]]:
        """All rows as sharegpt with absolute paths, for a rewritten offline file; see `rewritten_entry`.

        Rows that supervised training drops stay in their places, and are dropped again.

        Raises:
            DatasetError: the rows hold what such a file cannot carry.
        """
        self._refuse_loss()
        _, columns = self._rewritten()
        return [_as_sharegpt(aligned, columns) for aligned in self.rows]

    def for_training(self, row: int) -> tuple[str | None, list[str]]:
        """What stops a training at a row, in words, before any audio is opened; and the audio that it would open.

        Rows that LLaMA-Factory drops stop nothing.
        """
        aligned = self.rows[row]
        turns = [*(aligned["_prompt"] or []), *(aligned["_response"] or [])]
        audios = aligned["_audios"] or []
        if not aligned["_prompt"] or len(aligned["_response"] or []) != 1:
            return None, []
        cause = _text_problem(turns, aligned, self.audio_token)
        if cause is None and not all(isinstance(audio, str) and "://" not in audio for audio in audios):
            cause = "the row's audio is not the path of a file"
        return cause, [] if cause else _all_absolute(audios)

    def without(self, rows: Collection[int]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The entry, without `file_name`, and the rows with absolute paths of a file that leaves some rows out.

        Raises:
            DatasetError: such a file has no place for pairs of answers.
        """
        if any(len(response or []) > 1 for response in self._column("_response")):
            raise DatasetError(f"The dataset {self.name} has pairs of answers (`ranking`, `kto_tag`).")
        entry, columns = self._rewritten()
        kept = (aligned for row, aligned in enumerate(self.rows) if row not in rows)
        return entry, (_as_sharegpt(aligned, columns) for aligned in kept)

    def _refuse_loss(self) -> None:
        if self._lost:
            raise DatasetError(
                f"The dataset {self.name} has relative paths, so it is written anew with absolute ones, but there is "
                f"no place for {self._lost}. Write absolute paths into the dataset itself."
            )

    @functools.cached_property
    def _lost(self) -> str | None:
        """What a rewritten file would lose, or None."""
        if any(len(response or []) > 1 for response in self._column("_response")):
            return "pairs of answers (`ranking`, `kto_tag`)"
        if not all(isinstance(path, str) for path in self._paths()):
            return "images, videos or audio that are no paths"
        return None

    def _source_id(self, row: int) -> str | None:
        return self._source_ids[row] if self._source_ids else None

    @functools.cached_property
    def _source_ids(self) -> list[str | None]:
        """What a JSONL file calls its rows, which LLaMA-Factory's own form leaves out; empty where it does not."""
        path = Path(self.entry.get("file_name") or "")
        if path.suffix != ".jsonl" or not path.is_file():
            return []
        with contextlib.suppress(StorageError):
            rows = read_jsonl(path)
            if isinstance(next(rows, {}).get("id"), str):
                found = [str(row["id"]) if "id" in row else None for row in read_jsonl(path)]
                return found if len(found) == len(self) else []
        return []

    def _paths(self) -> Iterator[Any]:
        """Every path, or what stands in the place of one."""
        for column in _MEDIA:
            for media in self._column(column):
                yield from _flat(media or [])

    def _column(self, name: str) -> Iterator[Any]:
        for batch in self.rows.select_columns([name]).iter(_BATCH_ROWS):
            yield from batch[name]


def load_datasets(arguments: InferenceArguments, names: list[str]) -> list[OfflineDataset]:
    """Load registered datasets whole, in file order; a name that is given twice counts once, as in LLaMA-Factory.

    Raises:
        DatasetError: no name, no dataset_info.json, an unknown name, a missing file, broken JSON, or no audio column in
            any of them.
    """
    if not names:
        raise names_no_dataset()
    info = read_dataset_info(arguments.data.dataset_dir)
    return [_load(arguments, info, name) for name in _with_audio_among(info, names)]


def _with_audio_among(info: Mapping[str, Any], names: list[str]) -> list[str]:
    """The names, each once. Raises DatasetError unless an entry names audio; text may stand beside it."""
    entries = [info.get(name) for name in names]
    if all(isinstance(entry, dict) and not _names_audio(entry) for entry in entries):
        raise DatasetError(
            f"The dataset {names[0]} has no audio: its entry in dataset_info.json names no `audios` column. "
            'Add "columns": {"messages": …, "audios": …}.'
        )
    return list(dict.fromkeys(names))


def _names_audio(entry: Mapping[str, Any]) -> bool:
    columns = entry.get("columns", {})
    # What is not an object is refused where it is loaded.
    return not isinstance(columns, dict) or isinstance(columns.get("audios"), str)


def names_no_dataset() -> DatasetError:
    """The error for a recipe without a dataset."""
    return DatasetError("The recipe names no dataset. Add `dataset: NAME`, a name in dataset_info.json of dataset_dir.")


def unregistered(name: str, info: Mapping[str, Any], place: str) -> DatasetError:
    """The error for a name that `place`, whose entries are `info`, does not have."""
    names = sorted(map(str, info))
    if len(names) > LISTABLE:
        names = [*names[:LISTABLE], f"and {len(names) - LISTABLE} more"]
    return DatasetError(
        f"No dataset {name} in {place}; registered there: {', '.join(names) or 'none'}.{did_you_mean(name, info)}"
    )


def registered_file(entry: object, dataset_dir: str) -> Path | None:
    """The absolute path of the file or folder that an entry names, or None where its rows come from elsewhere."""
    if not isinstance(entry, dict) or any(key in entry for key in SOURCES if key != "file_name"):
        return None
    file_name = entry.get("file_name")
    return Path(os.path.abspath(os.path.join(dataset_dir, file_name))) if isinstance(file_name, str) else None


def read_dataset_info(dataset_dir: str | Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `dataset_info.json`, wherever LLaMA-Factory takes them from.

    Args:
        dataset_dir: a folder, `REMOTE:` and a dataset repository of the Hugging Face hub, or the entries themselves.

    Raises:
        DatasetError: it is missing or broken, or there is none (`ONLINE`).
    """
    if isinstance(dataset_dir, Mapping):
        return dict(dataset_dir)
    if not isinstance(dataset_dir, str):  # YAML reads `off`, `no` and `yes` as true or false
        raise UsageError(f'dataset_dir is {dataset_dir!r}; allowed: a folder. Put its name in quotes: "off".')
    if dataset_dir == "ONLINE":
        raise DatasetError(
            "dataset_dir: ONLINE takes datasets without an entry, and so without audio. "
            'Register the dataset in a dataset_info.json: {"hf_hub_url": …, "columns": {…, "audios": …}}.'
        )
    path = os.path.join(dataset_dir, "dataset_info.json")
    try:
        if dataset_dir.startswith("REMOTE:"):
            path = _download_info(dataset_dir.removeprefix("REMOTE:"))
        info = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is no JSON: {one_line(error)}.") from error
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"No dataset is registered in {dataset_dir}: cannot read {path} "
            f"({getattr(error, 'strerror', None) or one_line(error)}). "
            "Set dataset_dir to a folder with a dataset_info.json."
        ) from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
    return info


def _download_info(repository: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repo_id=repository, filename="dataset_info.json", repo_type="dataset"))


def _load(arguments: InferenceArguments, info: Mapping[str, Any], name: str) -> OfflineDataset:
    entry = _check_entry(arguments.data.dataset_dir, info, name)
    quieten_toolkit()
    from llamafactory.data.parser import get_dataset_list

    (attributes,) = get_dataset_list([name], {name: entry})
    entry = _located(entry, attributes, arguments.data.dataset_dir, name)
    rows = _align(arguments, attributes, name, _local_place(entry))
    if len(rows) == 0:
        raise DatasetError(f"The dataset {name} has no rows.")
    folder = arguments.data.dataset_dir
    home = os.path.abspath(folder) if isinstance(folder, str) and os.path.isdir(folder) else None
    return OfflineDataset(name, entry, rows, _audio_token(arguments.data.template), home)


def _audio_token(template: str | None) -> str | None:
    from llamafactory.data.template import TEMPLATES

    token = getattr(TEMPLATES[template].mm_plugin, "audio_token", None) if template in TEMPLATES else None
    return token if isinstance(token, str) else None


def _check_entry(dataset_dir: object, info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of the entry, in which LLaMA-Factory will find what it looks for."""
    place = os.path.join(dataset_dir, "dataset_info.json") if isinstance(dataset_dir, str) else "dataset_dir"
    if name not in info:
        raise unregistered(name, info, place)
    entry = info[name]
    if not isinstance(entry, dict):
        raise DatasetError(
            f"The entry of {name} in {place} is a {type(entry).__name__}; "
            'expected an object such as {"file_name": …}.'
        )
    for key in ("columns", "tags"):
        if key in entry and not isinstance(entry[key], dict):
            raise DatasetError(
                f"`{key}` in the entry of {name} in {place} is a {type(entry[key]).__name__}; expected an object."
            )
    if not any(isinstance(entry.get(key), str) for key in SOURCES):
        raise DatasetError(
            f"The entry of {name} in {place} does not say where its rows are. Add one of {', '.join(SOURCES)}."
        )
    return dict(entry)


def _located(entry: dict[str, Any], attributes: Any, dataset_dir: object, name: str) -> dict[str, Any]:
    """The entry as it holds for any `dataset_dir` and working folder: local places are absolute."""
    if attributes.load_from == "hf_hub" and os.path.exists(attributes.dataset_name):
        return entry | {"hf_hub_url": os.path.abspath(attributes.dataset_name)}
    if attributes.load_from not in ("file", "script"):
        return entry
    folder = dataset_dir if isinstance(dataset_dir, str) else os.curdir
    path = os.path.abspath(os.path.join(folder, attributes.dataset_name))
    if not os.path.exists(path):
        raise DatasetError(f"The dataset {name} is registered, but its file {path} does not exist.")
    if os.path.isdir(path) and not os.listdir(path):
        raise DatasetError(f"The dataset {name} is registered, but its folder {path} is empty.")
    return entry | {"file_name" if attributes.load_from == "file" else "script_url": path}


def _local_place(entry: Mapping[str, Any]) -> Path | None:
    """The file or folder on this machine that the rows are read from, of an entry that is `_located`."""
    named = next((entry[key] for key in ("hf_hub_url", "script_url", "file_name") if entry.get(key)), None)
    return Path(named) if isinstance(named, str) and os.path.isabs(named) and os.path.exists(named) else None


def _by_content(model_arguments: Any, place: Path | None) -> Any:
    """Arguments whose cache of `datasets` is that of the content: its own goes by names and times of files alone."""
    if place is None:
        return model_arguments
    import datasets

    digest = hashlib.blake2b(digest_size=16)
    files = sorted(path for path in place.rglob("*") if path.suffix in _TABLES) if place.is_dir() else [place]
    for path in (path for path in files if path.is_file()):
        digest.update(f"{path}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    keyed = copy.copy(model_arguments)
    folder = keyed.cache_dir or datasets.config.HF_DATASETS_CACHE
    keyed.cache_dir = os.path.join(folder, "simulsa", digest.hexdigest())
    return keyed


def _align(arguments: InferenceArguments, attributes: Any, name: str, place: Path | None) -> Any:
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.hparams import TrainingArguments

    attributes.num_samples = None  # the share is taken of the rows in the file
    training = TrainingArguments(output_dir=os.devnull)
    try:
        with _folders_by_name():
            model = _by_content(arguments.model, place)
            return _load_single_dataset(attributes, model, _whole(arguments.data), training)
    except StopIteration as error:
        raise DatasetError(f"The dataset {name} has no rows.") from error
    except KeyError as error:
        raise DatasetError(
            f"The dataset {name} cannot be loaded: {error} is no column of its rows, or a role without a tag. "
            "Check `columns` and `tags` of its entry in dataset_info.json."
        ) from error
    except _loading_errors(attributes.load_from, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise DatasetError(
            f"The dataset {name} cannot be loaded: {one_line(cause).rstrip('.')}. {_next_step(cause)}"
        ) from error


def _loading_errors(source: str, datasets_error: type[Exception]) -> tuple[type[Exception], ...]:
    """What reading rows may raise; the clouds' own errors (no credentials, no such bucket) have no base in common."""
    return (Exception,) if source == "cloud_file" else (datasets_error, *_LOADING_ERRORS)


def _next_step(cause: BaseException) -> str:
    text = str(cause)
    if "torchcodec" in text:  # what datasets asks for; LLaMA-Factory could not train on what comes out
        return "Its column holds audio itself, where LLaMA-Factory trains on paths: write files, and name them there."
    if "Dataset scripts" in text:
        return "Write the rows that its script gives to a file, and register that with `file_name`."
    return "Check its entry in dataset_info.json, and that its rows fit `columns` and `tags`."


@contextlib.contextmanager
def _folders_by_name() -> Iterator[None]:
    """LLaMA-Factory reads a folder's files in the order of `os.listdir`, which differs from disk to disk.

    Rows are chosen and called by their number. In training, whose order is shuffled, nothing hangs on it.
    """
    listdir = os.listdir
    os.listdir = lambda *path: sorted(listdir(*path))  # type: ignore[assignment]
    try:
        yield
    finally:
        os.listdir = listdir


def _whole(data_arguments: Any) -> Any:
    """Arguments that load every row and keep a relative audio path recognisable, by joining it to a relative folder."""
    whole = copy.copy(data_arguments)
    whole.max_samples, whole.streaming = None, False
    whole.overwrite_cache = True  # the cache remembers which audio was missing when it was made
    if not isinstance(whole.dataset_dir, str):
        whole.dataset_dir = os.curdir  # the entries came with the recipe; the places in them are their own
    folder = whole.media_dir if isinstance(whole.media_dir, str) else whole.dataset_dir
    whole.media_dir = os.path.relpath(folder)
    return whole


def _unusable(aligned: Mapping[str, Any]) -> str | None:
    """The reason why an aligned row cannot be cut, or None."""
    return _unusable_turns(aligned) or _unusable_media(aligned) or _unusable_text(aligned)


def _unusable_turns(aligned: Mapping[str, Any]) -> str | None:
    prompt, response = aligned["_prompt"] or [], aligned["_response"] or []
    if len(response) > 1:
        return "several_answers"  # ranking and KTO pairs, which supervised training drops
    if not prompt or not response:
        return "no_answer"
    if len(prompt) > 1:
        return "multi_turn"
    # `messages` has no place for tools: training would see another prompt than was scored
    if aligned["_tools"] or [prompt[0]["role"], response[0]["role"]] != ["user", "assistant"]:
        return "tools"
    return None


def _unusable_media(aligned: Mapping[str, Any]) -> str | None:
    if aligned["_images"] or aligned["_videos"]:
        return "other_media"
    if not aligned["_audios"]:
        return "no_audio"
    if not all(isinstance(audio, str) and "://" not in audio for audio in aligned["_audios"]):
        return "audio_not_a_path"
    return None


def _unusable_text(aligned: Mapping[str, Any]) -> str | None:
    from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

    ask, answer = aligned["_prompt"][0]["content"], aligned["_response"][0]["content"]
    if not isinstance(ask, str) or not isinstance(answer, str | None):
        return "not_text"
    answer = answer or ""
    if any(placeholder in ask + answer for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)):
        return "other_media"
    # LLaMA-Factory counts in the answer as well: one there would stop the training
    if len(aligned["_audios"]) != 1 or ask.count(AUDIO_PLACEHOLDER) != 1 or AUDIO_PLACEHOLDER in answer:
        return "not_one_audio"
    if not answer.strip():
        return "empty_reference"
    return None


def _text_problem(
    turns: Iterable[Mapping[str, Any]], aligned: Mapping[str, Any], audio_token: str | None
) -> str | None:
    """What a training stops at in the text of a row: LLaMA-Factory wants as many places in all turns as files."""
    from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

    texts = [turn["content"] or "" for turn in turns]
    if not all(isinstance(text, str) for text in texts):
        return "a turn is not text"
    placeholders = (AUDIO_PLACEHOLDER, "_audios"), (IMAGE_PLACEHOLDER, "_images"), (VIDEO_PLACEHOLDER, "_videos")
    for placeholder, column in placeholders:
        places, files = sum(text.count(placeholder) for text in texts), len(aligned[column] or [])
        if places != files:
            return f"{placeholder} stands {places} times, and there are {files} files for it"
    if audio_token and audio_token != AUDIO_PLACEHOLDER and any(audio_token in text for text in texts):
        return f"the text holds the template's audio token {audio_token!r}, and no audio for it"
    return None


def _as_sharegpt(aligned: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """One aligned row as sharegpt; `columns` of `_REWRITTEN_COLUMNS` besides messages and audios."""
    system = [{"role": "system", "content": aligned["_system"]}] if aligned["_system"] else []
    row: dict[str, Any] = {
        "messages": [*system, *(aligned["_prompt"] or []), *(aligned["_response"] or [])],
        "audios": _all_absolute(aligned["_audios"]),
    }
    for column in columns:
        value = aligned[_REWRITTEN_COLUMNS[column]]
        row[column] = (value or "") if column == "tools" else _all_absolute(value)
    return row


def _all_absolute(media: list[Any] | None) -> list[Any]:
    """Paths made absolute, those of a video's frames one list deeper too."""
    return [_all_absolute(one) if isinstance(one, list) else _absolute(one) for one in media or []]


def _flat(media: list[Any]) -> Iterator[Any]:
    for one in media:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _is_relative(path: str) -> bool:
    return bool(path) and "://" not in path and not os.path.isabs(path)


def _absolute(path: str) -> str:
    """The same file by an absolute path; what is no path of a file stays as it is."""
    if not path or "://" in path:
        return path
    # Behind a symbolic link `..` leads elsewhere than `abspath`, which goes by the text, would say.
    return os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)

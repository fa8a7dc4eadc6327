"""The dataset card of an output folder: what `datasets.load_dataset` and the Hugging Face Hub read in its README.md."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.output_layout import SUFFIX, Layout
from simulsa_plugin.cards import (
    CARD,
    Part,
    body_part,
    fenced,
    metadata_part,
    public_name,
    read_card,
    shown,
    with_parts,
    write_card,
)
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import remove_leftovers
from simulsa_plugin.files.audio_folder import METADATA
from simulsa_plugin.files.locks import locked
from simulsa_plugin.languages import language_code, language_tag
from simulsa_plugin.run_configuration import read_configuration
from simulsa_plugin.settings import words_of_changes
from simulsa_plugin.tables import list_counts
from simulsa_plugin.terminal import markdown_text

OWNER = "simulsa-augment"
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
_NOT_IN_CONFIG_NAMES = re.compile(r"[<>:/\\|?*\x00-\x1f]")  # datasets refuses them
_GLOB = re.compile(r"([*?[])")
_COMMENT = "# license: to fill in, such as cc-by-4.0: the one of the source dataset\n"
_LICENCE = """
## Licence

To fill in: audio and translations come from the source dataset, and so does their licence. What stands outside of the
marks stays as you write it.
"""
_ABOUT = """
Utterances of a speech translation dataset, truncated, each with the part of its translation that a model finds
supported by the audio so far: training data for simultaneous translation, made by `simulsa-augment` with the method
SimulSA ([arXiv 2509.15692](https://arxiv.org/abs/2509.15692)).
"""
_ELSEWHERE = """\
The clips lie in the folder of the run that was relabelled. Here the rows load with their paths, as `file_name`, and not
with audio: upload a run that was relabelled in place."""


@dataclass(frozen=True)
class SourceAudio:
    """What the card says about an offline dataset.

    Attributes:
        folder: of its audio and metadata.jsonl, in the output folder; None where its audio lies elsewhere.
        audio: pattern of its audio files in that folder.
        languages: tags of source and target, as the corpus writes them; empty where they are not known.
        origin: format and splits of the raw corpus.
        embedded: it is the embedded default.
    """

    folder: str | None = None
    audio: str = "**"
    languages: tuple[str, ...] = ()
    origin: str = ""
    embedded: bool = False


def write_dataset_card(out: Path, sources: Mapping[str, SourceAudio]) -> bool:
    """Write README.md of an output folder, or the parts of it that are between marks.

    Args:
        out: the output folder.
        sources: name of an offline dataset → what is known about it.

    Returns:
        False where a README.md without such parts is there, which stays as it is.

    Raises:
        StorageError: it cannot be written.
    """
    out = out.absolute()
    with locked(out, wait=True):
        remove_leftovers(out, CARD)
        manifests = read_manifests(out)
        parts = [metadata_part(OWNER, _metadata(out, manifests, sources)), body_part(OWNER, _body(manifests, sources))]
        card = out / CARD
        if not (card.exists() or card.is_symlink()):
            write_card(card, _new_card(*parts))
            return True
        updated = with_parts(read_card(card) or "", parts)
        if updated is not None:
            write_card(card, updated)
        return updated is not None


def read_manifests(out: Path) -> list[dict[str, Any]]:
    """Return the manifests of the datasets in an output folder, by their names; what cannot be read is left out."""
    found: list[dict[str, Any]] = []
    for path in sorted(out.glob(f"*{SUFFIX}/manifest.json")):
        try:
            manifest = read_configuration(path)
        except StorageError:
            continue
        if f"{manifest.get('dataset')}{SUFFIX}" == path.parent.name and "signature" in manifest:
            found.append(manifest)
    return found


def _new_card(metadata: Part, body: Part) -> str:
    return f"---\n{metadata}{_COMMENT}---\n\n{body}{_LICENCE}"


def _metadata(out: Path, manifests: Sequence[Mapping[str, Any]], sources: Mapping[str, SourceAudio]) -> dict[str, Any]:
    """Return the YAML of the card; languages are left out where one is not known."""
    tags = list(dict.fromkeys(tag for one in manifests for tag in _language_tags(one, sources)))
    samples = sum(one["counts"]["samples"] for one in manifests)
    size = next((name for name, limit in _SIZES if samples < limit), None)
    return {
        "configs": _configs(out, manifests, sources),
        **({"language": list(dict.fromkeys(map(language_code, tags)))} if tags else {}),
        **({"language_details": tags} if tags else {}),
        "task_categories": ["translation", "automatic-speech-recognition"],
        **({"size_categories": [size]} if size else {}),
        "tags": ["audio", "speech-translation", "simultaneous-translation", "simulsa", "llama-factory"],
    }


def _language_tags(manifest: Mapping[str, Any], sources: Mapping[str, SourceAudio]) -> list[str]:
    source = sources.get(manifest["dataset"], SourceAudio())
    return [tag for tag in map(language_tag, source.languages) if tag]


def _configs(
    out: Path, manifests: Sequence[Mapping[str, Any]], sources: Mapping[str, SourceAudio]
) -> list[dict[str, Any]]:
    """Return a configuration of `load_dataset` for each dataset with rows; the first one is the default."""
    names, configs = _config_names(manifests), list[dict[str, Any]]()
    for manifest in manifests:
        layout, source = Layout(out, manifest["dataset"]), sources.get(manifest["dataset"], SourceAudio())
        if manifest["counts"]["samples"] and layout.metadata.exists():
            clips = [] if manifest.get("scores_from") else ["clips/*.wav"]
            configs.append(_config(names[layout.rows.stem], layout.folder.name, clips))
        if source.folder is not None:
            configs.append(_config(names[layout.name], source.folder, [source.audio]))
    return [{**one, "default": True} if one is configs[0] else one for one in configs]


def _config(name: str, folder: str, audio: Sequence[str]) -> dict[str, Any]:
    paths = [f"{_glob_text(folder)}/{file}" for file in (METADATA, *audio)]
    return {"config_name": name, "data_files": [{"split": "train", "path": paths}]}


def _config_names(manifests: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return dataset → a name of its configuration that `datasets` accepts, and that no other one has.

    >>> _config_names([{"dataset": "a:b"}, {"dataset": "a*b"}])
    {'a:b': 'a-b', 'a:b_simulsa': 'a-b_simulsa', 'a*b': 'a-b-2', 'a*b_simulsa': 'a-b_simulsa-2'}
    """
    found: dict[str, str] = {}
    for name in (f"{one['dataset']}{suffix}" for one in manifests for suffix in ("", SUFFIX)):
        base = _NOT_IN_CONFIG_NAMES.sub("-", name)
        candidates = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
        found[name] = next(one for one in candidates if one not in found.values())
    return found


def _glob_text(text: str) -> str:
    """Escape a text in a pattern of file names."""
    return _GLOB.sub(r"[\1]", text)


def _body(manifests: Sequence[Mapping[str, Any]], sources: Mapping[str, SourceAudio]) -> str:
    configs, lines = _config_names(manifests), list[str]()
    for one in manifests:
        name = one["dataset"]
        lines += _dataset_section(one, configs[f"{name}{SUFFIX}"], sources.get(name, SourceAudio()))
    names = ", ".join(shown(one["dataset"]) for one in manifests)
    return "\n".join([f"# Simultaneous samples of {names}", _ABOUT, *lines])


def _dataset_section(manifest: Mapping[str, Any], config: str, source: SourceAudio) -> Iterator[str]:
    name = manifest["dataset"]
    yield from (f"## {shown(name)}{markdown_text(SUFFIX)}", "")
    yield from ("| | |", "|:--|:--|")
    yield from (f"| {label} | {shown(value)} |" for label, value in _facts(manifest, source))
    yield ""
    if manifest.get("scores_from"):
        yield from (_ELSEWHERE, "")
    yield from ("Signature and command:", "")
    yield fenced([manifest["signature"]], "text")
    yield fenced([_command(manifest, source)], "bash")
    loaded = fenced(
        [
            "from datasets import load_dataset",
            f'samples = load_dataset("FOLDER_OR_REPOSITORY", {json.dumps(config, ensure_ascii=False)}, split="train")',
        ],
        "python",
    )
    yield from ("To load it, audio in the column `audio`:", "", loaded)


def _facts(manifest: Mapping[str, Any], source: SourceAudio) -> Iterator[tuple[str, str]]:
    counts, settings, rows = manifest["counts"], manifest["settings"], manifest.get("rows")
    yield "source dataset", f"{manifest['dataset']}{f', from {source.origin}' if source.origin else ''}"
    tags = [tag for tag in map(language_tag, source.languages) if tag]
    if len(tags) == 2:
        yield "languages (BCP 47)", f"{tags[0]} → {tags[1]}"
    yield "rows of the source", "unknown" if rows is None else str(rows)
    yield "samples", str(counts["samples"])
    if rows:
        yield "samples as a share of the rows", f"{counts['samples'] / rows:.2%}"
    yield "of these empty", str(counts["empty"] if settings["simulsa_keep_empty"] else 0)
    yield "of these the whole reference", str(counts["whole_reference"])
    yield "left out", list_counts(manifest["skipped"])
    yield "cuts", _cuts(settings)
    yield "acceptance rule", _rule(manifest)
    model = manifest.get("model") or {}
    if model.get("model"):
        adapters = model.get("adapter") or []
        named = [model["model"], *(adapters if isinstance(adapters, list) else [adapters])]
        yield "scored by", ", ".join(public_name(str(one)) for one in named)
    yield "version of simulsa-plugin", manifest["versions"]["simulsa-plugin"]


def _cuts(settings: Mapping[str, Any]) -> str:
    if settings.get("simulsa_truncation") is None:
        return "unknown"
    return (
        f"{settings['simulsa_truncation']}, Beta({settings['simulsa_alpha']:g}, {settings['simulsa_beta']:g}), "
        f"{settings['simulsa_min_seconds']:g} to {settings['simulsa_max_seconds']:g} s, "
        f"{settings['simulsa_cuts']} per utterance, seed {settings['simulsa_seed']}"
    )


def _rule(manifest: Mapping[str, Any]) -> str:
    settings, threshold = manifest["settings"], manifest.get("threshold")
    tau = "" if threshold is None else f", τ = {threshold:.4g}"
    return f"{settings['simulsa_acceptance']}{tau}, at the end of a {settings['simulsa_boundary']}"


def _command(manifest: Mapping[str, Any], source: SourceAudio) -> str:
    """Return a command that makes the dataset again, with the keys that are not the defaults."""
    settings = dict(manifest["settings"])
    if settings["simulsa_samples"] is not None:
        del settings["simulsa_ratio"]
    if manifest.get("scores_from"):
        start: list[str] = ["--from-scores", "SCORES.jsonl"]
    elif source.embedded:
        start = []
    else:
        start = ["RECIPE.yaml", f"dataset={manifest['dataset']}"]
    words = [*start, *words_of_changes(AugmentSettings(), settings), "--out", "DIR"]
    return " ".join(["simulsa-augment", *map(shlex.quote, words)])

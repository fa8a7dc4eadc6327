"""The dataset card of an output folder, with what corpora and the embedded default know about their data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.dataset_card import SourceAudio, read_manifests, write_dataset_card
from simulsa_plugin.cards import CARD
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.demo.corpus import OFFLINE_NAME, demo_languages
from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.files.audio_folder import METADATA
from simulsa_plugin.run_configuration import read_configuration

logger = logging.getLogger(__name__)


def write_card_of(out: Path) -> None:
    """Write the dataset card of an output folder; where somebody else's README.md is, say that it stays.

    Raises:
        StorageError: it cannot be written.
    """
    out = out.absolute()
    sources = {one["dataset"]: _source(out, one) for one in read_manifests(out)}
    if not write_dataset_card(out, sources):
        logger.info("%s was not made by simulsa-augment, and stays as it is: no dataset card is written.", out / CARD)


def _source(out: Path, manifest: Mapping[str, Any]) -> SourceAudio:
    name = manifest["dataset"]
    if name == OFFLINE_NAME and (languages := demo_languages(out, manifest.get("source"))):
        there = (out / OFFLINE_NAME / METADATA).exists()
        return SourceAudio(
            OFFLINE_NAME if there else None, "*.wav", languages, "the embedded synthetic corpus", embedded=True
        )
    return _corpus_source(out, name)


def _corpus_source(out: Path, name: str) -> SourceAudio:
    """Return what the manifest of a raw corpus in the output folder says."""
    try:
        layout = CorpusLayout(out, name)
        corpus = read_configuration(layout.manifest) if layout.manifest.exists() else {}
        settings = corpus["settings"]
        languages = [settings[f"simulsa_{side}_language"] for side in ("source", "target")]
        splits = ", ".join(corpus["splits"])
        return SourceAudio(
            layout.folder.name if layout.metadata.exists() else None,
            "audio/**",
            tuple(languages) if all(languages) else (),
            f"{settings['simulsa_corpus']}{f' ({splits})' if splits else ''}",
        )
    except (StorageError, UsageError, LookupError, TypeError):  # there is no such corpus
        return SourceAudio()

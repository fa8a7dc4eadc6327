"""A raw corpus that the recipe names, turned into a dataset of LLaMA-Factory before the function's own work."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.recipe import Recipe, offline_dataset_names
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.corpora.corpus_settings import CorpusSettings
    from simulsa_plugin.corpora.prompts import TranslationPrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecipeCorpus:
    """A raw corpus as a recipe describes it.

    Attributes:
        settings: where it lies.
        splits: which part of it.
        prompt: the text of the user's turns.
        name: of the dataset that it becomes.
    """

    settings: CorpusSettings
    splits: tuple[str, ...]
    prompt: TranslationPrompt
    name: str

    def prepare(
        self, out: Path, *, wait: bool = False, quiet: bool = False, new_prompt: bool = False, portable: bool = False
    ) -> None:
        """Write it as a dataset into `out`, unless it is there; log a summary.

        Args:
            out: the output folder.
            wait: for a process that is at it.
            quiet: log nothing.
            new_prompt: of `corpora.prepare.prepare`.
            portable: likewise.

        Raises:
            SimulsaError: of `corpora.prepare.prepare`.
        """
        from simulsa_plugin.corpora.prepare import corpus_summary, prepare

        how = {"wait": wait, "new_prompt": new_prompt, "portable": portable}
        prepared = prepare(self.settings, self.splits, self.prompt, out, self.name, **how)
        for warning in prepared.warnings:
            logger.warning(warning)
        if not quiet:
            logger.info("\n".join(corpus_summary(prepared)))

    def leakage_warnings(self) -> list[str]:
        """Warn where an evaluation's splits are those that augmentation takes from the same corpus."""
        from simulsa_plugin.corpora.prepare import splits_for

        training = splits_for(self.settings, evaluation=False)
        shared = [split for split in self.splits if split in training]
        if not shared and (self.splits or training):
            return []
        part = f"split {', '.join(shared)} of the corpus" if shared else "whole corpus, which names no split"
        return [
            f"the test set {self.name} is the {part}, and so is what simulsa-augment takes with this recipe: scores of "
            "a model that was trained on it say how well it remembers. Set simulsa_eval_split to a test split."
        ]

    def dry_run(self, out: Path) -> list[str]:
        """Describe what would be written into `out`, writing nothing; no lines where all is there already.

        Raises:
            SimulsaError: as `prepare` before it opens any audio.
        """
        from simulsa_plugin.corpora.prepare import dry_run_corpus

        return dry_run_corpus(self.settings, self.splits, self.prompt, out, self.name)


def recipe_corpus(recipe: Recipe, *, evaluation: bool) -> RecipeCorpus | None:
    """Return the corpus that a recipe names, or None where its datasets are LLaMA-Factory's own.

    Whole recordings are for evaluations with `simulsa_longform`; others, and augmentation, cut their segments.

    Raises:
        UsageError: keys of the corpus are wrong, or the recipe names several datasets for it.
    """
    from simulsa_plugin.corpora.corpus_settings import CorpusSettings

    settings = CorpusSettings.from_keys(recipe.simulsa)
    if settings.corpus is None:
        return None
    from simulsa_plugin.corpora.formats.registry import FORMATS
    from simulsa_plugin.corpora.prepare import splits_for
    from simulsa_plugin.corpora.prompts import translation_prompt
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings

    decodes_recordings = EvaluationSettings.from_keys(recipe.simulsa).is_long_form
    whole = settings.corpus_whole or (FORMATS[settings.corpus].whole and decodes_recordings)
    settings = replace(settings, corpus_whole=evaluation and whole)
    splits = splits_for(settings, evaluation=evaluation)
    template = recipe.toolkit.get("template")
    prompt = translation_prompt(settings.prompt, template, settings.source_language, settings.target_language)
    return RecipeCorpus(settings, splits, prompt, _dataset_name(recipe.toolkit, settings, splits, evaluation))


def _dataset_name(toolkit: dict[str, Any], settings: CorpusSettings, splits: tuple[str, ...], evaluation: bool) -> str:
    """Return the recipe's name for the dataset, or one after the corpus, its languages and split."""
    key = "eval_dataset" if evaluation else "dataset"
    names = offline_dataset_names(toolkit.get(key))
    if len(names) > 1:
        raise UsageError(
            f"simulsa_corpus makes one dataset; the recipe names {', '.join(names)}. Set {key} to one name, or to none."
        )
    return names[0] if names else settings.name(splits)

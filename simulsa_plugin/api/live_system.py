"""A recipe's model, ready to translate while people speak: what servers and other tools' agents are built on."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.recipe import Recipe, RecipeSource, dataset_names, open_recipe
from simulsa_plugin.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.live.arrivals import StreamArrivals
    from simulsa_plugin.live.engine import LiveEngine
    from simulsa_plugin.live.stream import LiveStream
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.llamafactory.model.backbone import Backbone
    from simulsa_plugin.model.protocol import AudioLanguageModel
    from simulsa_plugin.model.values import Prompt, Sample
    from simulsa_plugin.streaming.engine import DecodingSetting
    from simulsa_plugin.streaming.steps import StreamSource

logger = logging.getLogger(__name__)
CALIBRATION_ROWS = 8  # utterances on which attention heads are selected
SHOWN_CELLS = 4  # of a message
USUAL_POINT = "confidence_k500_b0_confidence_threshold0.99"  # of the preset `recommended`: the middle of its curve
# What may be chosen for a stream: the rest of a recipe is about the model, or about all streams.
POINT_KEYS = (
    "simulsa_policies",
    "simulsa_chunks",
    "simulsa_rollbacks",
    "simulsa_confidence_threshold",
    "simulsa_confidence_window",
    "simulsa_attention_ms",
    "simulsa_hold_n",
    "simulsa_wait_k",
    "simulsa_agreement_n",
)


@dataclass(frozen=True)
class LiveSystem:
    """A loaded model with its engine; `close` it at the end.

    Attributes:
        model: serves all streams.
        engine: computes the steps of all streams.
        settings: of the recipe.
        points: the streaming cells of the recipe by name, as `simulsa_cells` names them.
        prompts: prompts of streams.
        model_name: for people.
    """

    model: AudioLanguageModel
    engine: LiveEngine
    settings: EvaluationSettings
    points: Mapping[str, DecodingSetting]
    prompts: StreamPrompts
    model_name: str

    @property
    def default_point(self) -> str:
        """USUAL_POINT where the recipe has it, else the first cell."""
        return USUAL_POINT if USUAL_POINT in self.points else next(iter(self.points))

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies that a stream may choose: those of the recipe, and all others that need no set-up."""
        from simulsa_plugin.streaming.catalogue import POLICIES

        has_heads = any(point.policy.heads is not None for point in self.points.values())
        ready = [name for name in POLICIES if name != "attention" or has_heads]
        return tuple(dict.fromkeys([*self.settings.policies, *ready]))

    def choose_point(self, keys: Mapping[str, Any]) -> DecodingSetting:
        """Return the operating point that recipe keys give, with the recipe's values for the others.

        Args:
            keys: some of POINT_KEYS.

        Raises:
            UsageError: a key or value is not allowed, or there are several points.
        """
        from simulsa_plugin.evaluation.block_decoding import cell_folder
        from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
        from simulsa_plugin.evaluation.run import plan_cells
        from simulsa_plugin.settings import check_choice

        for key in keys:
            check_choice("The key of an operating point", key, POINT_KEYS)
        given = EvaluationSettings.from_keys(keys).as_keys()
        for key in keys:  # before cells are planned: they are the product of all values, which a client sends
            if len(given[key]) != 1:
                raise UsageError(f"{key} has {len(given[key])} values; a stream has one operating point: give it one.")
        for name in given["simulsa_policies"] if "simulsa_policies" in keys else ():
            check_choice("simulsa_policies", name, self.policies)  # a dotted name would be imported
        settings = EvaluationSettings.from_keys(self.settings.as_keys() | {"simulsa_cells": None} | dict(keys))
        settings.voice_activity(self.model.window_seconds)
        points = [cell for cell in plan_cells(settings) if cell.chunk_ms is not None]
        if len(points) != 1:
            names_of_points = ", ".join(map(cell_folder, points))
            raise UsageError(
                f"A stream has one operating point, and the keys give {len(points)}: {names_of_points}. "
                "Give each key one value."
            )
        return points[0]

    def new_stream(
        self,
        point: str | DecodingSetting | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        skip_late: bool = False,
    ) -> LiveStream:
        """Begin the stream of one speaker.

        Args:
            point: a name in `points`, or any setting with a chunk; None for `default_point`.
            source_language: instead of the recipe's, where the prompt names it.
            target_language: likewise.
            skip_late: see `LiveStream`.

        Raises:
            UsageError: there is no such point, or the prompt cannot name the language.
        """
        from simulsa_plugin.audio.samples import seconds_to_samples
        from simulsa_plugin.live.stream import LiveStream
        from simulsa_plugin.settings import check_choice

        if point is None or isinstance(point, str):
            name = point or self.default_point
            check_choice("the operating point", name, list(self.points))
            point = self.points[name]
        window = self.settings.voice_activity(self.model.window_seconds).window_seconds
        settings = self.settings
        if target_language and self.prompts.fixed is None:
            settings = dataclasses.replace(settings, target_language=target_language)
        return LiveStream(
            self.prompts.prompt(source_language, target_language),
            point.policy,
            self._arrivals(point),
            self.model.decode,
            settings.latency_unit,
            window_samples=seconds_to_samples(window) if self.settings.is_long_form else None,
            skip_late=skip_late,
        )

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.close()

    def _arrivals(self, point: DecodingSetting) -> StreamArrivals:
        from simulsa_plugin.live.arrivals import SpeechArrivals, WholeStreamArrivals
        from simulsa_plugin.longform.silero import SpeechDetector
        from simulsa_plugin.streaming.session import SAMPLES_PER_MS

        chunk = (point.chunk_ms or 0) * SAMPLES_PER_MS
        if not self.settings.is_long_form:
            return WholeStreamArrivals(chunk)
        return SpeechArrivals(SpeechDetector(), self.settings.voice_activity(self.model.window_seconds), chunk)


@dataclass(frozen=True)
class StreamPrompts:
    """Prompts of streams.

    Attributes:
        fixed: of a dataset's row, which has been trained on; None where the recipe writes the prompt.
        text: `simulsa_prompt`; None for the template's.
        template: of LLaMA-Factory.
        source_language: of the recipe.
        target_language: of the recipe.
    """

    fixed: Prompt | None
    text: str | None
    template: str
    source_language: str | None
    target_language: str | None

    def prompt(self, source_language: str | None = None, target_language: str | None = None) -> Prompt:
        """Return the prompt, with other languages than the recipe's where they are given and the prompt names any.

        Raises:
            UsageError: a language that the prompt names is missing or unknown.
        """
        from simulsa_plugin.corpora.prompts import translation_prompt
        from simulsa_plugin.model.values import Prompt

        if self.fixed is not None:
            return self.fixed
        source, target = source_language or self.source_language, target_language or self.target_language
        written = translation_prompt(self.text, self.template, source, target)
        return Prompt(({"role": "user", "content": written.text},), written.system)


def open_live_system(
    recipe: RecipeSource,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    default_longform: str = "none",
    endless: bool = False,
    single_point: bool = False,
) -> LiveSystem:
    """Load the model of a recipe, and make what its streams need.

    The prompt is `simulsa_prompt`; else that of the first usable row of the recipe's eval_dataset or dataset; else the
    template's.

    Args:
        recipe: see `open_recipe`.
        overrides: see `open_recipe`.
        default_longform: how streams are segmented where the recipe does not set `simulsa_longform`.
        endless: streams go on for longer than the model hears at once, so they must be segmented.
        single_point: the caller decodes in one cell; the recipe must not have several.

    Raises:
        UsageError: a key is wrong, no cell is streaming, or there are several where one is needed.
        MissingExtraError: streams are segmented, and Silero VAD is not installed.
        DatasetError: the dataset that the recipe names cannot be read.
        ModelError: the model cannot be loaded.
    """
    from simulsa_plugin.corpora.corpus_settings import CorpusSettings
    from simulsa_plugin.evaluation.block_decoding import cell_folder
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.live.engine import LiveEngine
    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe
    from simulsa_plugin.longform.silero import require_silero
    from simulsa_plugin.presets import RECOMMENDED
    from simulsa_plugin.settings import list_some
    from simulsa_plugin.streaming.steps import BatchLimits

    opened = open_recipe(recipe, overrides, [EvaluationSettings], RECOMMENDED)
    keys = {"simulsa_longform": default_longform} | opened.simulsa
    settings = EvaluationSettings.from_keys(keys)
    if endless and not settings.is_long_form:
        raise UsageError("simulsa_longform is none; allowed: window and vad, as a speaker goes on for any time.")
    if settings.is_long_form:
        require_silero()
    points = {cell_folder(cell): cell for cell in plan_cells(settings) if cell.chunk_ms is not None}
    if not points:
        raise UsageError("The recipe has no streaming cell. Set simulsa_policies and simulsa_chunks.")
    if single_point and len(points) > 1:
        raise UsageError(
            f"One cell is decoded, and the recipe has {len(points)}: {list_some(points, SHOWN_CELLS)}. "
            "Set simulsa_cells to one of them."
        )
    corpus = CorpusSettings.from_keys(opened.simulsa)
    names = dataset_names(opened.toolkit.get("eval_dataset") or opened.toolkit.get("dataset"))[:1]
    names = names if corpus.prompt is None else []
    check_recipe(opened.toolkit, names or None)
    prompts = StreamPrompts(
        _embedded_prompt(opened, corpus.prompt),
        corpus.prompt,
        str(opened.toolkit["template"]),
        corpus.source_language,
        corpus.target_language,
    )
    if not names:
        prompts.prompt()  # a language that is missing shows now
    name = Path(str(opened.toolkit["model_name_or_path"])).name
    logger.info(f"loading {name}, operating points: {len(points)}, simulsa_longform: {settings.longform}")
    model, samples = _load(opened, names, settings)
    if settings.cuda_graphs:
        model.use_cuda_graphs(settings.eval_memory_gb * 1e9)
    if samples:
        prompts = dataclasses.replace(prompts, fixed=samples[0].prompt)
    limits = BatchLimits(settings.max_new_tokens, settings.eval_batch_size, settings.eval_memory_gb * 1e9)
    _set_attention_heads(model, list(points.values()), samples)
    return LiveSystem(model, LiveEngine(model, limits), settings, points, prompts, name)


def _load(recipe: Recipe, names: list[str], settings: EvaluationSettings) -> tuple[Backbone, list[Sample]]:
    """Load the model, and utterances that show the prompt, if a dataset is named."""
    from simulsa_plugin.api.loading import load_model, load_model_and_data
    from simulsa_plugin.model.values import Sample

    cache_bytes = settings.eval_memory_gb * 1e9
    if not names:
        return load_model(recipe.toolkit, cache_bytes), []
    samples: list[Sample] = []

    def read_rows(datasets: list[OfflineDataset]) -> None:
        rows = datasets[0].without_segments()
        usable = (row for row in map(rows.sample, range(len(rows))) if isinstance(row, Sample))
        samples.extend(itertools.islice(usable, CALIBRATION_ROWS))
        if not samples:
            raise DatasetError(f"No row of {datasets[0].name} can be used to read the prompt from. Set simulsa_prompt.")

    model, _ = load_model_and_data(recipe.toolkit, names, cache_bytes, read_rows)
    return model, samples


def _embedded_prompt(recipe: Recipe, prompt: str | None) -> Prompt | None:
    from simulsa_plugin.demo.grammar import PROMPT
    from simulsa_plugin.model.values import Prompt

    return Prompt(({"role": "user", "content": PROMPT},)) if recipe.embedded and prompt is None else None


def _set_attention_heads(model: Backbone, points: list[DecodingSetting], samples: list[Sample]) -> None:
    """Set the heads of policies that follow the attention; they are found on the dataset's utterances."""
    from simulsa_plugin.evaluation.loading import load_sources
    from simulsa_plugin.streaming.engine import choose_alignment_heads
    from simulsa_plugin.streaming.steps import StreamSource

    def load() -> list[StreamSource]:
        found = [one for one in load_sources(model, samples) if isinstance(one, StreamSource)]
        if not found:
            raise UsageError(
                "The policy attention finds its heads on utterances of the recipe's dataset, and none can be read. "
                "Set simulsa_attention_heads, which `simulsa-eval tune` writes into tuned.yaml."
            )
        return found

    choose_alignment_heads(model, points, load)

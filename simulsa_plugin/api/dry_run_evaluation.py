"""The dry run of an evaluation or a search: what would be decoded and at what cost, in lines; no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.recipe import Recipe, RecipeSource, dataset_names, open_recipe
from simulsa_plugin.errors import DatasetError

if TYPE_CHECKING:
    from simulsa_plugin.audio.samples import Waveform
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
    from simulsa_plugin.model.cost import ModelSize, Utterance
    from simulsa_plugin.model.values import Sample, UnusableRow
    from simulsa_plugin.tuning.halving import Goal

MEASURED_ROWS = 64  # whose audio is read; the others are taken to be like them
NOT_RECORDINGS = "recordings of any length: speech is found while decoding, so the cost is not estimated"


def dry_run_evaluation(
    recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any], out: Path
) -> tuple[list[str], list[str]]:
    """Describe what `evaluate` would do with a recipe; nothing is written.

    Returns:
        The lines, and warnings.

    Raises:
        SimulsaError: as `evaluate` before it loads the model.
    """
    from simulsa_plugin.api.evaluate_recipe import TEST_FOLDER, check_before_loading
    from simulsa_plugin.demo.corpus import TEST_NAME
    from simulsa_plugin.demo.talks import TALKS_NAME
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.evaluation.result_cells import SCORES
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.presets import RECOMMENDED

    opened = open_recipe(recipe, overrides, [EvaluationSettings], RECOMMENDED)
    settings = EvaluationSettings.from_keys(opened.simulsa)
    corpus = check_before_loading(opened, settings, out, None)
    lines = [str(opened.preset)] if opened.preset else []
    toolkit = opened.toolkit
    if corpus:
        if to_prepare := corpus.dry_run(out / TEST_FOLDER):
            return [*lines, *to_prepare], []
        toolkit = toolkit | {"eval_dataset": corpus.name, "dataset_dir": str(out / TEST_FOLDER)}
    elif opened.embedded:
        name = TALKS_NAME if settings.is_long_form else TEST_NAME
        if not (out / TEST_FOLDER / f"{name}.jsonl").exists():
            return [*lines, _would_synthesise(name, out / TEST_FOLDER)], []
        toolkit = toolkit | {"eval_dataset": name, "dataset_dir": str(out / TEST_FOLDER)}
    names = dataset_names(toolkit.get("eval_dataset") or toolkit.get("dataset"))
    chunks = [cell.chunk_ms for cell in plan_cells(settings)]
    more, warnings = _estimate(toolkit, names[0], settings, settings.eval_samples, chunks, None)
    return [*lines, *more, _state(out, SCORES)], warnings


def dry_run_tuning(
    recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any], goal: Goal, out: Path
) -> tuple[list[str], list[str]]:
    """Describe what `tune` would do with a recipe; nothing is written.

    Returns:
        The lines, and warnings.

    Raises:
        SimulsaError: as `tune` before it loads the model.
    """
    from simulsa_plugin.api.evaluate_recipe import TEST_FOLDER
    from simulsa_plugin.api.tune_recipe import check_search
    from simulsa_plugin.evaluation.evaluation_settings import TuneSettings
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.tuning.frontier_file import FRONTIER

    opened: Recipe = open_recipe(recipe, overrides)
    settings, goal, dev = check_search(opened, goal, out)
    toolkit = opened.toolkit
    if not dev.registered:
        if not (out / TEST_FOLDER / f"{dev.name}.jsonl").exists():
            return [f"{dev.name}: would first be made in {out}; the estimate needs it"], []
        toolkit = toolkit | {"dataset_dir": str(out / TEST_FOLDER)}
    chunks = [cell.chunk_ms for cell in plan_cells(settings)[1:]]
    samples = TuneSettings.from_keys(opened.simulsa).dev_samples
    lines, warnings = _estimate(toolkit, dev.name, settings, samples, chunks, len(goal.budgets))
    return [*lines, _state(out, FRONTIER)], warnings


def _state(out: Path, result: str) -> str:
    """Say whether a folder holds its result."""
    return f"  {out} is finished: a run would decode nothing" if (out / result).exists() else f"  {out}: not finished"


def _would_synthesise(name: str, folder: Path) -> str:
    return f"{name}: would first synthesise the test set into {folder}; the estimate needs it"


def _estimate(
    toolkit: Mapping[str, Any],
    name: str,
    settings: EvaluationSettings,
    samples: int | None,
    chunks: Sequence[int | None],
    budgets: int | None,
) -> tuple[list[str], list[str]]:
    """Describe decoding of a dataset in cells; with `budgets`, of a search among them."""
    from simulsa_plugin.api.loading import load_without_weights, read_samples
    from simulsa_plugin.evaluation.reference_checks import check_references
    from simulsa_plugin.llamafactory.model.machine import this_machine
    from simulsa_plugin.model.cost import cost_lines, search_work
    from simulsa_plugin.tuning.halving import planned_rungs

    renderer, (dataset,), size = load_without_weights(toolkit, [name])
    rows = read_samples(dataset, samples, settings)
    warnings = check_references(dataset.name, rows, settings)
    everything = [(len(chunks), len(rows))]
    rungs = everything if budgets is None else planned_rungs(len(chunks), len(rows), budgets)
    sessions = sum(cells * count for cells, count in rungs)
    lines = [f"{name}: would decode {len(rows)} of {len(dataset)} rows in {len(chunks)} cells, {sessions} sessions"]
    if settings.is_long_form:
        return [*lines, f"  {NOT_RECORDINGS}"], warnings
    measured = _measure_rows(rows, renderer)
    seconds = sum(one.seconds for one in measured) / len(measured)
    lines.append(f"  audio: {seconds:.1f} s a row on average, of {len(measured)} rows that were read")
    if size is None:
        return [*lines, "  model: size not known from its configuration"], warnings
    batch = _sessions_in_a_batch(size, settings, measured)
    work = search_work(size, measured, [chunk and chunk / 1000 for chunk in chunks], rungs, batch)
    return [*lines, *(f"  {line}" for line in cost_lines(size, work, this_machine(size)))], warnings


def _measure_rows(rows: Sequence[Sample | UnusableRow], renderer: TemplateRenderer) -> list[Utterance]:
    """Return what some rows cost, evenly spaced over those that can be used.

    Raises:
        DatasetError: none of them can be decoded.
    """
    from simulsa_plugin.audio.samples import samples_to_seconds
    from simulsa_plugin.errors import ModelError
    from simulsa_plugin.evaluation.loading import load_waveform
    from simulsa_plugin.model.cost import Utterance
    from simulsa_plugin.model.values import Sample

    found, reason = [], "no row is usable"
    for row in rows[:: max(1, len(rows) // MEASURED_ROWS)]:
        waveform = load_waveform(row.audio) if isinstance(row, Sample) else row.reason
        if isinstance(waveform, str) or not isinstance(row, Sample):
            reason = str(waveform)
            continue
        try:
            whole, half = (renderer.render(row.prompt, part, row.reference) for part in _whole_and_half(waveform))
        except ModelError as error:
            reason = str(error)
            continue
        audio_tokens = min(2 * (len(whole.prompt_ids) - len(half.prompt_ids)), len(whole.prompt_ids))
        text_tokens = len(whole.prompt_ids) - audio_tokens
        found.append(Utterance(samples_to_seconds(len(waveform)), text_tokens, audio_tokens, len(whole.content_ids)))
    if not found:
        raise DatasetError(f"None of the rows that were tried can be decoded: {reason}.")
    return found


def _whole_and_half(waveform: Waveform) -> tuple[Waveform, Waveform]:
    """Return (num_samples,) and its first half: the prompt is longer by half of the audio tokens."""
    return waveform, waveform[: len(waveform) // 2]


def _sessions_in_a_batch(size: ModelSize, settings: EvaluationSettings, utterances: Sequence[Utterance]) -> float:
    """Return how many sessions the limits allow in a batch, as the engine counts their tokens."""
    longest = max(one.prompt_tokens + one.answer_tokens for one in utterances) + settings.max_new_tokens
    fitting = settings.eval_memory_gb * 1e9 / max(1.0, size.bytes_per_token) / longest
    return max(1.0, min(settings.eval_batch_size, fitting))

"""Simultaneous decoding at every evaluation of a training: `eval_simul_k500_b0_bleu` among its metrics.

`run_sft`, `run_dpo` and `run_kto` are wrapped to load test set and template, the trainer's class to decode with the
model in training. Models of other stages do not translate, so the key is refused there. Metrics are added before the
trainer logs an evaluation, so that they appear wherever its own do: TensorBoard, W&B, SwanLab,
trainer_state.json, all_results.json, `metric_for_best_model` and early stopping. Examples and the curves follow.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm import tqdm

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.during_training import (
    HISTORY,
    METRIC_PREFIX,
    History,
    Sessions,
    TrainingEvaluation,
    decode_share,
    logged_metrics,
    plan_training_evaluation,
    score_cells,
)
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings, HookSettings
from simulsa_plugin.evaluation.report import PAGE
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.evaluation.training_examples import TrainingExamples, choose_examples
from simulsa_plugin.evaluation.training_page import write_training_page
from simulsa_plugin.evaluation.training_result import RESULTS, remove_training_results, write_training_results
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, one_line
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.llamafactory.training.card_section import add_to_model_card
from simulsa_plugin.llamafactory.training.distributed import gather_from_ranks, gathered_weights, rank_and_world_size
from simulsa_plugin.llamafactory.training.loggers import log_examples
from simulsa_plugin.llamafactory.training.preserved_state import preserved_log_levels, preserved_training_state
from simulsa_plugin.metrics.quality import make_metrics
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.presets import apply_preset
from simulsa_plugin.settings import KEY_PREFIX, read_recipe
from simulsa_plugin.tables import list_counts

DECODED_STAGES = ("sft", "dpo", "kto")
if TYPE_CHECKING:
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset

TrainingScores: TypeAlias = tuple[list[dict[str, Any]], dict[str, float]]  # rows of the history, logged metrics
_RUNTIME = "_runtime"  # end of the key of an evaluation's duration
_current: list[Evaluator] = []  # the evaluator of the training that is being set up in this process


class Evaluator:
    """Decodes a test set with the model of a training, distributed over its ranks.

    Args:
        plan: test set and settings.
        renderer: tokenizer, processor and template apart from the training's, which do not change.
        history: file of all results.
    """

    def __init__(self, plan: TrainingEvaluation, renderer: Any, history: History) -> None:
        self.plan, self._renderer, self.history = plan, renderer, history
        self._done: dict[int, dict[str, float]] = {}
        self._sessions: Sessions = {}  # of the last evaluation, on the first rank; the same holds for the examples
        self._examples: TrainingExamples | None = None
        self._kept: dict[int, Sessions] = {}  # step → sessions, of the last evaluation and of the best one so far
        self._best: int | None = None  # step of the best model, after the training
        self._has_best_weights = False  # they were loaded after the training
        self._unsent: int | None = None  # step whose examples the loggers do not have yet
        self._count = self._failed = 0  # of evaluations

    def begin(self, step: int) -> None:
        """Remove results after `step` from the history, when a training starts or resumes there."""
        if rank_and_world_size()[0] != 0:
            return
        try:
            self.history.drop_after(step)
            if not step:
                remove_training_results(self.history.folder)
        except Exception as error:  # a full disk must not end a training
            notify(f"{HISTORY} could not be cut at step {step}, and may hold later steps: {one_line(error)}")

    def end(self, best: int | None = None, *, loaded: bool = False) -> None:
        """Clear the metrics of steps, as the weights may be others after a training.

        Args:
            best: step of the best model.
            loaded: its weights were loaded. They are evaluated once more, which does not evaluate the last step.
        """
        self._done.clear()
        self._best, self._has_best_weights = best, loaded

    def write_reports(self, model: Mapping[str, Any]) -> None:
        """Write the last evaluation of a training, and the best one, as results with reports; link them in the page.

        Args:
            model: what was trained, as in scores.json.
        """
        if rank_and_world_size()[0] != 0 or not self._kept or self._examples is None:
            return
        try:
            steps = write_training_results(self.history.folder, self.plan, self._kept, self._best, model)
            places = {f"{name} evaluation, step {step}": f"{RESULTS}/{name}/{PAGE}" for name, step in steps.items()}
            write_training_page(self.history.page, self.history.rows(), self._examples, places)
            notify(f"reports of simultaneous decoding: {', '.join(places.values())} in {self.history.folder}")
        except Exception as error:  # the training is done, and its weights are there
            notify(f"the report of simultaneous decoding could not be written: {one_line(error)}")

    def metrics(self, trainer: Any) -> dict[str, float]:
        """Return the metrics of the current step, decoded once for several evaluation sets; none after a failure."""
        step = trainer.state.global_step
        if step not in self._done:
            self._done[step] = self._evaluate(trainer, step)
        return self._done[step]

    def _evaluate(self, trainer: Any, step: int) -> dict[str, float]:
        start = time.perf_counter()
        # All ranks use the metrics of the first one, so that they choose the same best model.
        result: TrainingScores | str = gather_from_ranks(self._score(gather_from_ranks(self._decode(trainer))))[0]
        self._count += 1
        if isinstance(result, str):
            self._failed += 1
            notify(
                f"simultaneous decoding at step {step} FAILED, the training goes on without it: {result} "
                f"({self._failed} of {self._count} evaluations so far failed)"
            )
            return _nan_for_best(self.plan, trainer.args)
        rows, metrics = result
        if rank_and_world_size()[0] == 0 and not self._has_best_weights:
            self._keep(step, getattr(trainer.state, "best_global_step", None))
            self._add_to_history(step, trainer.state.epoch, time.perf_counter() - start, rows)
        return _nan_for_best(self.plan, trainer.args) | metrics

    def _keep(self, step: int, best: int | None) -> None:
        """Keep the sessions of a step, and those of the best one before it."""
        self._kept = {one: kept for one, kept in self._kept.items() if one in (best, step)}
        self._kept[step] = self._sessions

    def _score(self, shares: list[dict[int, Any] | str]) -> TrainingScores | str | None:
        """Return the result on the first rank, or the reason of a failure; None on other ranks."""
        if rank_and_world_size()[0] != 0:
            return None
        sessions: dict[int, Any] = {}
        for share in shares:
            if isinstance(share, str):
                return share
            sessions |= share
        try:
            rows = score_cells(self.plan, sessions)
            if not self._has_best_weights:
                self._sessions, self._examples = sessions, choose_examples(self.plan, sessions)
            return rows, logged_metrics(self.plan, rows)
        except Exception as error:  # no failure of an evaluation may end a training
            return f"{type(error).__name__}: {one_line(error)}"

    def _decode(self, trainer: Any) -> dict[int, Any] | str:
        """Decode this rank's share. Return a failure as text, as the other ranks wait for the result."""
        from simulsa_plugin.llamafactory.model.backbone import Backbone

        number, count = rank_and_world_size()
        total = len(range(number, len(self.plan.samples), count)) * len(self.plan.cells)
        try:
            with (
                gathered_weights(trainer.model_wrapped),
                preserved_training_state(trainer.model),
                trainer.compute_loss_context_manager(),
                tqdm(
                    total=total, desc="simultaneous", unit="session", disable=None if number == 0 else True, leave=False
                ) as progress,
            ):
                model = Backbone(trainer.model, self._renderer)
                return decode_share(model, self.plan, number, count, progress)
        except Exception as error:  # no failure of an evaluation may end a training
            return f"{type(error).__name__}: {one_line(error)}"

    def _add_to_history(self, step: int, epoch: float | None, seconds: float, rows: list[dict[str, Any]]) -> None:
        try:
            written = self.history.add(step, epoch, seconds, rows)
            self._unsent = step
            if self._examples is not None:
                write_training_page(self.history.page, written, self._examples)
        except Exception as error:  # a full disk must not end a training either
            notify(f"the simultaneous decoding of step {step} could not be written down: {one_line(error)}")

    def send_examples(self, callbacks: Iterable[Any]) -> None:
        """Send the examples and curves of the last evaluation, once, to the loggers of the trainer's callbacks."""
        step, self._unsent = self._unsent, None
        if step is None or self._examples is None:
            return
        try:
            failures = log_examples(callbacks, step, self._examples, self.history.picture.read_bytes())
        except Exception as error:  # of the picture
            failures = [f"{type(error).__name__}: {one_line(error)}"]
        for failure in failures:
            notify(f"the examples of step {step} could not be logged: {failure}")


def with_evaluator(run_stage: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `run_sft`, `run_dpo` or `run_kto`: set up the evaluator, and complete the model card.

    The test set is read before the training starts, so that a mistake shows at once.
    """

    @functools.wraps(run_stage)
    def wrapped(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *rest: Any, **more: Any
    ) -> Any:
        evaluator = _make_evaluator(InferenceArguments(model_args, data_args, finetuning_args), training_args)
        _current[:] = [evaluator] if evaluator else []
        try:
            result = run_stage(model_args, data_args, training_args, finetuning_args, *rest, **more)
        finally:
            _current.clear()
        if evaluator:
            evaluator.write_reports(_trained_model(model_args, data_args, training_args, finetuning_args))
        add_to_model_card(data_args, training_args, evaluator.history if evaluator else None)
        return result

    return wrapped


def _trained_model(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> dict[str, Any]:
    """Return model, adapter and template by which `simulsa-eval` decodes with what was trained."""
    model, adapters = model_args.model_name_or_path, list(model_args.adapter_name_or_path or [])
    if training_args.do_train and finetuning_args.finetuning_type in ("full", "freeze"):
        model, adapters = training_args.output_dir, []
    elif training_args.do_train:  # LLaMA-Factory trains the last adapter further unless it makes a new one
        before = adapters if finetuning_args.create_new_adapter else adapters[:-1]
        adapters = [*before, training_args.output_dir]
    return {"model": model, "adapter": adapters or None, "template": data_args.template}


def with_evaluation_refused(run_stage: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `run_pt`, `run_rm` or `run_ppo`, whose models do not translate: refuse a `simulsa_eval_dataset`.

    Raises:
        UsageError: when called with the key.
    """

    @functools.wraps(run_stage)
    def wrapped(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *rest: Any, **more: Any
    ) -> Any:
        if HookSettings.from_keys(_simulsa_keys(data_args)).eval_dataset is not None:
            raise UsageError(
                f"simulsa_eval_dataset does not work in stage: {finetuning_args.stage}; allowed: "
                f"{', '.join(DECODED_STAGES)}. Remove the key, and evaluate with simulsa-eval."
            )
        return run_stage(model_args, data_args, training_args, finetuning_args, *rest, **more)

    return wrapped


def with_simultaneous_evaluation(trainer_class: type) -> type:
    """Return a subclass of a trainer that also decodes simultaneously, if the recipe has a `simulsa_eval_dataset`."""

    class SimultaneousEvaluationTrainer(trainer_class):  # type: ignore[misc]  # transformers has no types
        """Adds simultaneous metrics to an evaluation before they are logged."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.simultaneous = _current[0] if _current else None

        def train(self, *arguments: Any, **named: Any) -> Any:
            if self.simultaneous is None:
                return super().train(*arguments, **named)
            self.add_callback(_begin_callback(self.simultaneous))
            try:
                return super().train(*arguments, **named)
            finally:
                loaded = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
                self.simultaneous.end(self.state.best_global_step, loaded=loaded)

        def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
            if self.simultaneous is not None and _is_evaluation(logs):
                logs.update(self.simultaneous.metrics(self))
            super().log(logs, *arguments, **named)
            if self.simultaneous is not None and _is_evaluation(logs):
                self.simultaneous.send_examples(self.callback_handler.callbacks)

    SimultaneousEvaluationTrainer.__name__ = SimultaneousEvaluationTrainer.__qualname__ = trainer_class.__name__
    return SimultaneousEvaluationTrainer


def _begin_callback(evaluator: Evaluator) -> Any:
    from transformers import TrainerCallback

    class BeginCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        """Passes on the step at which a training starts, which is known once a checkpoint's state is loaded."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            evaluator.begin(state.global_step)

    return BeginCallback()


def _is_evaluation(logs: Mapping[str, float]) -> bool:
    return any(key.startswith("eval_") and key.endswith(_RUNTIME) for key in logs)


def _nan_for_best(plan: TrainingEvaluation, training_args: Any) -> dict[str, float]:
    """Return NaN, which is never the best, for the metric of the best model: without a value the trainer stops."""
    name = _best_metric(training_args)
    return {name: float("nan")} if name in plan.names else {}


def _best_metric(training_args: Any) -> str | None:
    """Return the metric that selects the best model, with the prefix that the trainer adds."""
    metric: str | None = training_args.metric_for_best_model
    return metric if metric is None or metric.startswith("eval_") else f"eval_{metric}"


def _make_evaluator(arguments: InferenceArguments, training_args: Any) -> Evaluator | None:
    """Set up the evaluator of a recipe; None without a `simulsa_eval_dataset`.

    Raises:
        UsageError, DatasetError, ModelError: the recipe's keys, its test set or its template are wrong.
        MissingExtraError: the BLEU tokenizer needs a package or a file that is missing.
    """
    named, preset = apply_preset(_simulsa_keys(arguments.data), [HookSettings, EvaluationSettings])
    hook = HookSettings.from_keys(named)
    if hook.eval_dataset is None:
        return None
    settings = EvaluationSettings.from_keys(
        named
        | {
            "simulsa_chunks": hook.eval_chunks,
            "simulsa_rollbacks": hook.eval_rollbacks,
            "simulsa_policies": hook.eval_policies,
            "simulsa_eval_samples": hook.eval_samples,
        }
    )
    _refuse_unsupported(training_args, settings)
    make_metrics(settings.bleu_tokenizer)  # a missing package shows before the training
    with preserved_log_levels():
        from simulsa_plugin.llamafactory.data.dataset import load_datasets
        from simulsa_plugin.llamafactory.data.rendering import load_renderer

        dataset = load_datasets(arguments, [hook.eval_dataset])[0].without_segments()
        renderer = load_renderer(arguments)
    rows: list[Sample | UnusableRow] = [
        dataset.sample(row) for row in range(min(len(dataset), hook.eval_samples or len(dataset)))
    ]
    plan, seconds = plan_training_evaluation(dataset.name, rows, plan_cells(settings), settings)
    chosen = _best_metric(training_args)
    if chosen is not None and chosen.startswith(METRIC_PREFIX) and chosen not in plan.names:
        raise UsageError(f"metric_for_best_model is {chosen}; simultaneous decoding has {', '.join(plan.names)}.")
    if rank_and_world_size()[0] == 0:
        if preset:
            notify(str(preset))
        for line in _describe_test_set(dataset, arguments.data, plan):
            notify(line)
        notify(plan.cost(seconds) + (f" Skipped: {list_counts(plan.skipped)}." if plan.skipped else ""))
    return Evaluator(plan, renderer, History(Path(training_args.output_dir)))


def _describe_test_set(dataset: OfflineDataset, data_arguments: Any, plan: TrainingEvaluation) -> Iterator[str]:
    """Yield a line about the test set, and warnings, such as that the model is trained on it."""
    from simulsa_plugin.llamafactory.data.dataset_registry import read_dataset_info
    from simulsa_plugin.llamafactory.data.leakage import find_training_overlap

    rows = len(plan.samples) + sum(plan.skipped.values())
    yield f"test set {dataset.name}: {rows} of {len(dataset)} rows, latency unit {plan.settings.latency_unit}."
    yield from (f"WARNING: {line}" for line in plan.warnings)
    folder = data_arguments.dataset_dir
    entries = read_dataset_info(folder)
    where = folder if isinstance(folder, str) else os.curdir
    shared = find_training_overlap(dataset.name, dataset.entry, data_arguments.dataset or [], entries, where)
    if shared:
        yield (
            f"WARNING: the test set {dataset.name} is {shared}: its scores say how well the model remembers, not "
            "how well it translates. Set simulsa_eval_dataset to a test set that is not trained on."
        )


def _simulsa_keys(data_arguments: Any) -> dict[str, Any]:
    """Return the recipe's `simulsa_*` keys; flags, which are text, are parsed like values of a recipe."""
    keys = {key: value for key, value in vars(data_arguments).items() if key.startswith(KEY_PREFIX)}
    flags = read_recipe(None, [f"{key}={value}" for key, value in keys.items() if isinstance(value, str)])
    return {key: flags.get(key, value) for key, value in keys.items() if value is not None}


def _refuse_unsupported(training_args: Any, settings: EvaluationSettings) -> None:
    if settings.measure_time:
        raise UsageError("simulsa_measure_time is not for an evaluation during training. Use simulsa-eval.")
    if getattr(training_args, "fsdp", None):
        raise UsageError(
            "simulsa_eval_dataset does not work under FSDP, whose weights it cannot gather. Leave it out, "
            "or use DeepSpeed."
        )
    if (
        str(getattr(training_args.eval_strategy, "value", training_args.eval_strategy)) == "no"
        and not training_args.do_eval
    ):
        raise UsageError(
            "simulsa_eval_dataset decodes whenever the training evaluates, and this one never does. Set "
            "eval_strategy: steps, eval_steps, and val_size or eval_dataset."
        )

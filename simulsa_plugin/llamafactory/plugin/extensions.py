"""Extensions of LLaMA-Factory's modules (and one of DeepSpeed), applied right after their import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simulsa_plugin.llamafactory.plugin.notices import announce, notify


def extend(module: ModuleType) -> None:
    """Extend one of `autoload.EXTENDED_MODULES`."""
    _EXTENSIONS[module.__name__](module)


def _extend_launcher(launcher: ModuleType) -> None:
    from simulsa_plugin.llamafactory.plugin import launching

    launching.report_errors_in_one_line()
    _wrap(launcher, "launch", launching.with_recipe_checks)
    _wrap(launcher, "subprocess", lambda subprocess: launching.TorchrunSubprocess(subprocess, str(launcher.__file__)))


def _extend_parser(parser: ModuleType) -> None:
    from simulsa_plugin.llamafactory.plugin import launching, recipe_keys
    from simulsa_plugin.llamafactory.training import distributed

    launching.report_errors_in_one_line()
    distributed.wait_for_gloo_at_exit()
    _wrap(parser, "read_args", recipe_keys.with_adapted_recipe)
    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        _wrap(parser, name, _with_simulsa_keys)


def _with_simulsa_keys(groups: list[type]) -> list[type]:
    from simulsa_plugin.llamafactory.plugin.data_arguments import DataArguments, SimulsaDataArguments

    return [SimulsaDataArguments if group is DataArguments else group for group in groups]


def _extend_mm_plugin(mm_plugin: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.audio_loading import AudioReader
    from simulsa_plugin.llamafactory.patches.audio_tokens import read_audio_before_counting

    _wrap(mm_plugin, "torchaudio", AudioReader)
    _wrap(mm_plugin, "Gemma4Plugin", read_audio_before_counting)


def _extend_collator(collator: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.position_ids import with_integer_positions

    _wrap(collator.MultiModalDataCollatorForSeq2Seq, "_compute_rope_position_ids", with_integer_positions)


def _extend_dataset_entries(parser: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data.labels import with_label_entries

    _wrap(parser, "get_dataset_list", with_label_entries)


def _extend_converters(converter: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data.label_loading import with_label_converter
    from simulsa_plugin.llamafactory.patches.media_references import with_references

    _wrap(converter.DatasetConverter, "_find_medias", with_references)
    _wrap(converter, "register_dataset_converter", with_label_converter)


def _extend_loader(loader: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data import training_data
    from simulsa_plugin.llamafactory.data.label_loading import with_labels_applied

    _wrap(loader, "_load_single_dataset", with_labels_applied)
    _wrap(loader, "_load_single_dataset", training_data.with_row_counts)
    _wrap(loader, "_get_merged_dataset", training_data.with_share_report)
    _wrap(loader, "get_dataset", training_data.with_tokenized_warning)


def _extend_processor(supervised: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.cutoff_len import check_truncated_rows, record_truncated_rows

    _wrap(supervised, "SupervisedDatasetProcessor", record_truncated_rows)  # the packed one inherits it
    for name in ("SupervisedDatasetProcessor", "PackedSupervisedDatasetProcessor"):
        _wrap(supervised, name, check_truncated_rows)


def _extend_deepspeed(deepspeed_comm: ModuleType) -> None:
    from simulsa_plugin.llamafactory.plugin import launching

    if "llamafactory" in sys.modules:
        _wrap(deepspeed_comm, "build_shm_op", launching.skip_unneeded_compilation)


def _extend_model_loader(loader: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.batch_invariance import with_batch_invariant_encoder

    _wrap(loader, "load_model", with_batch_invariant_encoder)


def _extend_stage(workflow: ModuleType) -> None:
    """Add the evaluation hook to a training stage; `llamafactory.train.STAGE.workflow` holds `run_STAGE`."""
    from simulsa_plugin.llamafactory.training import hook

    announce()  # for processes without `llamafactory-cli`: torchrun on a script, a Ray worker
    stage = workflow.__name__.split(".")[-2]
    decoded = stage in hook.DECODED_STAGES
    _wrap(workflow, f"run_{stage}", hook.with_evaluator if decoded else hook.with_evaluation_refused)


def _extend_sft(workflow: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _extend_stage(workflow)
    # The other stages import their trainers when they run, from modules that are extended as well.
    _wrap(workflow, "CustomSeq2SeqTrainer", hook.with_simultaneous_evaluation)


def _extend_dpo_trainer(module: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _wrap(module, "CustomDPOTrainer", hook.with_simultaneous_evaluation)


def _extend_kto_trainer(module: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _wrap(module, "CustomKTOTrainer", hook.with_simultaneous_evaluation)


def _extend_board(interface: ModuleType) -> None:
    from simulsa_plugin.llamafactory.board import fields, tab

    _wrap(interface, "create_train_tab", fields.with_simultaneous_fields)
    tab.add_simulsa_tab(interface)


def _notify_bypassed(module: ModuleType) -> None:
    mode = "USE_V1=1" if ".v1." in module.__name__ else module.__name__.split(".")[-2]
    notify(
        f"{mode} uses a part of LLaMA-Factory that this plugin does not extend: its keys, its audio loading, "
        "formatting: simulsa and simulsa_eval_dataset do not work there."
    )


def _wrap(module: ModuleType | type, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace `module.name` by `wrap(module.name)`; notify where the name does not exist."""
    if not hasattr(module, name):
        notify(
            f"{module.__name__}.{name} does not exist, so that its extension by simulsa_plugin is off. "
            "The plugin is written for LLaMA-Factory 0.9.5; its other extensions work."
        )
        return
    setattr(module, name, wrap(getattr(module, name)))


_EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    "llamafactory.launcher": _extend_launcher,
    "llamafactory.hparams.parser": _extend_parser,
    "llamafactory.data.collator": _extend_collator,
    "llamafactory.data.converter": _extend_converters,
    "llamafactory.data.loader": _extend_loader,
    "llamafactory.data.processor.supervised": _extend_processor,
    "llamafactory.data.parser": _extend_dataset_entries,
    "llamafactory.data.mm_plugin": _extend_mm_plugin,
    "llamafactory.model.loader": _extend_model_loader,
    "llamafactory.train.sft.workflow": _extend_sft,
    "llamafactory.train.dpo.workflow": _extend_stage,
    "llamafactory.train.dpo.trainer": _extend_dpo_trainer,
    "llamafactory.train.kto.workflow": _extend_stage,
    "llamafactory.train.kto.trainer": _extend_kto_trainer,
    "llamafactory.train.pt.workflow": _extend_stage,
    "llamafactory.train.rm.workflow": _extend_stage,
    "llamafactory.train.ppo.workflow": _extend_stage,
    "llamafactory.webui.interface": _extend_board,
    "llamafactory.v1.launcher": _notify_bypassed,
    "llamafactory.train.mca.workflow": _notify_bypassed,
    "llamafactory.train.hyper_parallel.workflow": _notify_bypassed,
    "deepspeed.comm.torch": _extend_deepspeed,
}

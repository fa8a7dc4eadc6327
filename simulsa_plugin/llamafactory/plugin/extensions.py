"""What is done to which module of LLaMA-Factory (and one of DeepSpeed), right after it has been imported."""

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
    _wrap(launcher, "launch", launching.prepared)
    _wrap(launcher, "subprocess", lambda subprocess: launching.OwnTorchrun(subprocess, str(launcher.__file__)))


def _extend_parser(parser: ModuleType) -> None:
    from simulsa_plugin.llamafactory.plugin import launching, recipe_keys
    from simulsa_plugin.llamafactory.training import distributed as ranks

    launching.report_errors_in_one_line()
    ranks.let_gloo_finish_at_exit()
    _wrap(parser, "read_args", recipe_keys.adapting)
    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        _wrap(parser, name, _with_own_keys)


def _with_own_keys(groups: list[type]) -> list[type]:
    from simulsa_plugin.llamafactory.plugin.data_arguments import DataArguments, SimulsaDataArguments

    return [SimulsaDataArguments if group is DataArguments else group for group in groups]


def _extend_mm_plugin(mm_plugin: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.audio_loading import AudioReader
    from simulsa_plugin.llamafactory.patches.audio_tokens import counting_samples

    _wrap(mm_plugin, "torchaudio", AudioReader)
    _wrap(mm_plugin, "Gemma4Plugin", counting_samples)


def _extend_collator(collator: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.position_ids import exact_positions

    _wrap(collator.MultiModalDataCollatorForSeq2Seq, "_compute_rope_position_ids", exact_positions)


def _extend_dataset_entries(parser: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data.labels import carrying_labels

    _wrap(parser, "get_dataset_list", carrying_labels)


def _extend_converters(converter: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data.label_loading import registered

    _wrap(converter, "register_dataset_converter", registered)


def _extend_loader(loader: ModuleType) -> None:
    from simulsa_plugin.llamafactory.data import training_data
    from simulsa_plugin.llamafactory.data.label_loading import deciding

    _wrap(loader, "_load_single_dataset", deciding)
    _wrap(loader, "_load_single_dataset", training_data.counting)
    _wrap(loader, "_get_merged_dataset", training_data.saying_share)
    _wrap(loader, "get_dataset", training_data.knowing_tokenized)


def _extend_processor(supervised: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.cutoff_len import counting_cut_rows, keeping_audio

    _wrap(supervised, "SupervisedDatasetProcessor", keeping_audio)  # the packed one inherits it
    for name in ("SupervisedDatasetProcessor", "PackedSupervisedDatasetProcessor"):
        _wrap(supervised, name, counting_cut_rows)


def _extend_deepspeed(deepspeed_comm: ModuleType) -> None:
    from simulsa_plugin.llamafactory.plugin import launching

    if "llamafactory" in sys.modules:
        _wrap(deepspeed_comm, "build_shm_op", launching.without_compiler)


def _extend_model_loader(loader: ModuleType) -> None:
    from simulsa_plugin.llamafactory.patches.batch_invariance import company_free

    _wrap(loader, "load_model", company_free)


def _extend_stage(workflow: ModuleType) -> None:
    """Give a stage of training its evaluation hook; `llamafactory.train.STAGE.workflow` holds `run_STAGE`."""
    from simulsa_plugin.llamafactory.training import hook

    announce()  # reached without `llamafactory-cli`: torchrun on a script, a Ray worker
    stage = workflow.__name__.split(".")[-2]
    decoded = stage in hook.DECODED_STAGES
    _wrap(workflow, f"run_{stage}", hook.with_evaluator if decoded else hook.refusing_evaluation)


def _extend_sft(workflow: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _extend_stage(workflow)
    # The other stages import their trainers only when they run, from modules that are extended themselves.
    _wrap(workflow, "CustomSeq2SeqTrainer", hook.evaluating)


def _extend_dpo_trainer(module: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _wrap(module, "CustomDPOTrainer", hook.evaluating)


def _extend_kto_trainer(module: ModuleType) -> None:
    from simulsa_plugin.llamafactory.training import hook

    _wrap(module, "CustomKTOTrainer", hook.evaluating)


def _say_bypassed(module: ModuleType) -> None:
    way = "USE_V1=1" if ".v1." in module.__name__ else module.__name__.split(".")[-2]
    notify(
        f"{way} takes a way of LLaMA-Factory past this plugin: its keys, its reading of audio, formatting: simulsa "
        "and simulsa_eval_dataset are off there."
    )


def _wrap(module: ModuleType | type, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace `module.name` by `wrap(module.name)`; a name that is gone is reported, and the rest goes on."""
    if not hasattr(module, name):
        notify(
            f"there is no {module.__name__}.{name}; what simulsa_plugin does there is off. "
            "It is written for LLaMA-Factory 0.9.5; the rest works on."
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
    "llamafactory.v1.launcher": _say_bypassed,
    "llamafactory.train.mca.workflow": _say_bypassed,
    "llamafactory.train.hyper_parallel.workflow": _say_bypassed,
    "deepspeed.comm.torch": _extend_deepspeed,
}

"""The `simulsa_*` keys of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.budgets import parse_budgets
from simulsa_plugin.languages import (
    CHINESE,
    JAPANESE,
    KOREAN,
    SPACED,
    UNSPACED,
    is_language,
    language_of_region,
    writing_of_language,
)
from simulsa_plugin.longform.voice_activity import VoiceActivitySettings
from simulsa_plugin.metrics.records import LATENCY_UNITS, LatencyUnit, check_unit
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.settings import Settings, check_choice, check_range, short_repr
from simulsa_plugin.streaming.catalogue import PolicyOptions, check_policy_name

AUTO = "auto"
LONG_FORMS = ("none", "window", "vad")
# How a language is written → latency unit, and sacrebleu's tokenizer. Of its tokenizers, only char and flores200 split
# Thai, Lao, Khmer and Burmese, and flores200 fetches its model from the network.
UNITS_OF_WRITING: dict[str, tuple[LatencyUnit, str]] = {
    CHINESE: ("char", "zh"),
    JAPANESE: ("char", "ja-mecab"),
    KOREAN: ("word", "ko-mecab"),
    UNSPACED: ("char", "char"),
    SPACED: ("word", "13a"),
}


@dataclass(frozen=True)
class CometSettings(Settings):
    """The keys of COMET, which is added to a finished result, and changes nothing else in it.

    Attributes:
        comet: a COMET or XCOMET checkpoint on disk; not set: no COMET.
        comet_python: a Python interpreter with unbabel-comet; not set: the one that runs the command.
        comet_sources: a text file with the source text of every instance, or of every row of the test set.
        comet_batch_size: segments scored at once.
    """

    comet: str | None = None
    comet_python: str | None = None
    comet_sources: str | None = None
    comet_batch_size: int = 8

    def __post_init__(self) -> None:
        check_range("simulsa_comet_batch_size", self.comet_batch_size, minimum=1)


@dataclass(frozen=True)
class HookSettings(Settings):
    """The keys of simultaneous decoding during training; others are as in `EvaluationSettings`.

    Attributes:
        eval_dataset: a test set in dataset_info.json; not set: no decoding during training.
        eval_chunks: k in milliseconds.
        eval_rollbacks: b of `rollback`, tokens.
        eval_policies: as `simulsa_policies`.
        eval_samples: decode only this number of rows of the test set, the first ones; null: all.
    """

    eval_dataset: str | None = None
    eval_chunks: tuple[int, ...] = (500, 1000)
    eval_rollbacks: tuple[int, ...] = (0, 3)
    eval_policies: tuple[str, ...] = ("rollback",)
    eval_samples: int | None = 100

    def __post_init__(self) -> None:
        check_range("simulsa_eval_samples", self.eval_samples, minimum=1)
        _check_cells("simulsa_eval_", self.eval_chunks, self.eval_rollbacks, self.eval_policies)


@dataclass(frozen=True)
class TuneSettings(Settings):
    """The keys of `simulsa-eval tune` alone.

    Attributes:
        dev_dataset: the set in dataset_info.json on which settings are chosen.
        dev_samples: decode only this number of its rows, the first ones; null: all.
    """

    dev_dataset: str | None = None
    dev_samples: int | None = None

    def __post_init__(self) -> None:
        check_range("simulsa_dev_samples", self.dev_samples, minimum=1)


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Cells to decode, and how to score; chunks in milliseconds, rollbacks and `hold_n` in tokens.

    Attributes:
        chunks: k in milliseconds; offline is always added.
        rollbacks: b of `rollback`, tokens; each value of this and of the other policies' keys makes a cell.
        policies: names of policies, or dotted names of custom ones.
        cells: decode only these cells, by the names of their folders; `simulsa-eval tune` writes them.
        tuned: for which budgets cells were chosen on a dev set, METRIC@MS to the cell's name; shown in the report, and
            without effect on what is decoded; `simulsa-eval tune` writes it.
        rollback_floor: false takes the literal |y| − b, which may take back committed tokens.
        confidence_threshold: of `confidence` and `agreement_or_confidence`, a probability.
        confidence_window: of `confidence`, tokens.
        attention_ms: of `attention`, milliseconds at the end of the audio.
        attention_heads: of `attention`, layer/head counted from 0; not set: they are found.
        hold_n: of `hold_n`, tokens.
        wait_k: of `wait_k`, chunks.
        agreement_n: of `local_agreement` and `agreement_or_confidence`, outputs.
        max_new_tokens: limit per step; reaching it is counted.
        unit: latency unit; `auto` takes that of the target language.
        tokenizer: sacrebleu's for BLEU; `auto` takes that of the target language.
        target_language: a language tag (BCP 47: `zh`, `zh-CN`, `jpn`) that chooses unit and tokenizer.
        eval_samples: decode only this number of rows of the test set, the first ones; null: all.
        eval_batch_size: sessions decoded at once.
        eval_memory_gb: gigabytes that a batch may take: keys, values and logits, and before that the audio encoder.
        cuda_graphs: on a GPU, for models that allow it, replay decode steps as CUDA graphs over preallocated keys and
            values, which take half of `eval_memory_gb`.
        measure_time: decode one session at a time, and measure the computation.
        longform: none decodes every row as one utterance; vad and window decode recordings of any length, in speech
            segments that Silero VAD finds while listening: vad cuts those that exceed the window, window slides.
        window_seconds: W, the longest audio decoded at once; not set: the window of the model.
        vad_threshold: probability from which a frame of 32 ms is speech.
        vad_min_speech_ms: speech needed before a segment is detected.
        vad_min_silence_ms: silence that closes a short segment; a segment as long as the window closes at any pause.
        vad_pad_ms: audio kept before and after the speech of a segment.
    """

    chunks: tuple[int, ...] = (500, 1000, 1500, 2000)
    rollbacks: tuple[int, ...] = (0, 3, 5)
    policies: tuple[str, ...] = ("rollback",)
    cells: tuple[str, ...] | None = None
    tuned: Mapping[str, str] = field(default_factory=dict)
    rollback_floor: bool = True
    confidence_threshold: tuple[float, ...] = (0.9,)
    confidence_window: tuple[int, ...] = (1,)
    attention_ms: tuple[int, ...] = (320,)
    attention_heads: tuple[str, ...] = ()
    hold_n: tuple[int, ...] = (3,)
    wait_k: tuple[int, ...] = (3,)
    agreement_n: tuple[int, ...] = (2,)
    max_new_tokens: int = 256
    unit: str = AUTO
    tokenizer: str = AUTO
    target_language: str | None = None
    eval_samples: int | None = None
    eval_batch_size: int = 64
    eval_memory_gb: float = 4.0
    cuda_graphs: bool = True
    measure_time: bool = False
    longform: str = LONG_FORMS[0]
    window_seconds: float | None = None
    vad_threshold: float = VoiceActivitySettings.threshold
    vad_min_speech_ms: float = VoiceActivitySettings.min_speech_ms
    vad_min_silence_ms: float = VoiceActivitySettings.min_silence_ms
    vad_pad_ms: float = VoiceActivitySettings.pad_ms

    def __post_init__(self) -> None:
        for key, values in vars(self).items():
            if isinstance(values, tuple) and len(set(values)) != len(values):
                raise UsageError(f"simulsa_{key} repeats a value: {', '.join(map(str, values))}.")
        _check_cells("simulsa_", self.chunks, self.rollbacks, self.policies)
        for threshold in self.confidence_threshold:
            check_range("simulsa_confidence_threshold", threshold, above=0, maximum=1)
        _parse_heads(self.attention_heads)
        for key in ("confidence_window", "attention_ms", "hold_n", "wait_k", "agreement_n"):
            for value in getattr(self, key):
                check_range(f"simulsa_{key}", value, minimum=0 if key == "hold_n" else 1)
        check_range("simulsa_max_new_tokens", self.max_new_tokens, minimum=1)
        check_choice("simulsa_unit", self.unit, (AUTO, *LATENCY_UNITS))
        if AUTO in (self.unit, self.tokenizer) and self.target_language is not None:
            _check_language("simulsa_target_language", self.target_language)
        check_range("simulsa_eval_samples", self.eval_samples, minimum=1)
        check_range("simulsa_eval_batch_size", self.eval_batch_size, minimum=1)
        check_range("simulsa_eval_memory_gb", self.eval_memory_gb, above=0)
        check_choice("simulsa_longform", self.longform, LONG_FORMS)
        self.voice_activity(self.window_seconds)
        parse_budgets(self.tuned)

    def relevant_keys(self) -> dict[str, Any]:
        """Return the group as recipe keys; some of them only where they say something."""
        usual = {"simulsa_tuned": {}, "simulsa_cuda_graphs": True}
        keys = {key: value for key, value in self.as_keys().items() if key not in usual or value != usual[key]}
        long_form = {"simulsa_longform", "simulsa_window_seconds"}
        return {
            key: value
            for key, value in keys.items()
            if self.is_long_form or not (key in long_form or key.startswith("simulsa_vad_"))
        }

    @property
    def is_long_form(self) -> bool:
        """Whether rows are recordings of any length."""
        return self.longform != LONG_FORMS[0]

    def voice_activity(self, model_window_seconds: float | None) -> VoiceActivitySettings:
        """Return how speech is segmented.

        Args:
            model_window_seconds: of the model; None where it has no limit.

        Raises:
            UsageError: a value is out of range, or a chunk does not fit into the window.
        """
        fitting = [one for one in (self.window_seconds, model_window_seconds) if one is not None]
        found = VoiceActivitySettings(
            self.vad_threshold,
            self.vad_min_speech_ms,
            self.vad_min_silence_ms,
            self.vad_pad_ms,
            min(fitting, default=VoiceActivitySettings.window_seconds),
            self.longform == "window",
        )
        longest_ms = max(self.chunks, default=0) + found.min_silence_ms + found.pad_ms
        if found.slides and 2 * longest_ms > 1000 * found.window_seconds:
            raise UsageError(
                f"A step may bring {longest_ms:g} ms of audio (the longest of simulsa_chunks, plus "
                "simulsa_vad_min_silence_ms and simulsa_vad_pad_ms), more than half of the window of "
                f"{found.window_seconds:g} s. "
                "Set shorter chunks, or simulsa_longform=vad."
            )
        return found

    @property
    def policy_options(self) -> PolicyOptions:
        """The options of the policies."""
        return PolicyOptions(
            rollbacks=self.rollbacks,
            rollback_floor=self.rollback_floor,
            confidence_thresholds=self.confidence_threshold,
            confidence_windows=self.confidence_window,
            attention_ms=self.attention_ms,
            attention_heads=_parse_heads(self.attention_heads),
            hold_n=self.hold_n,
            wait_k=self.wait_k,
            agreement_n=self.agreement_n,
            unit=self.latency_unit,
        )

    @property
    def latency_unit(self) -> LatencyUnit:
        """`unit`, or the unit of the target language: char where it has no spaces, else word."""
        return self._of_language[0] if self.unit == AUTO else check_unit(self.unit)

    @property
    def bleu_tokenizer(self) -> str:
        """`tokenizer`, or sacrebleu's for the target language: zh, ja-mecab, ko-mecab, char (th, lo …), else 13a."""
        return self._of_language[1] if self.tokenizer == AUTO else self.tokenizer

    @property
    def _of_language(self) -> tuple[LatencyUnit, str]:
        return UNITS_OF_WRITING[writing_of_language(self.target_language) if self.target_language else SPACED]


def _check_cells(prefix: str, chunks: Iterable[int], rollbacks: Iterable[int], policies: Iterable[str]) -> None:
    for chunk in chunks:
        check_range(f"{prefix}chunks", chunk, minimum=1)
    for rollback in rollbacks:
        check_range(f"{prefix}rollbacks", rollback, minimum=0)
    for policy in policies:
        check_policy_name(f"{prefix}policies", policy)


def _parse_heads(words: Iterable[str]) -> tuple[AttentionHead, ...]:
    """Attention heads by layer/head; UsageError for what is none."""
    heads = []
    for word in words:
        layer, _, head = word.partition("/")
        if not (layer.isdecimal() and head.isdecimal()):
            raise UsageError(f"simulsa_attention_heads is {short_repr(word)}; expected layer/head, such as 14/3,15/0.")
        heads.append((int(layer), int(head)))
    return tuple(heads)


def _check_language(key: str, language: str) -> None:
    if not is_language(language):
        meant = language_of_region(language)
        raise UsageError(
            f"{key} is {short_repr(language)}, which is not a language tag (BCP 47); allowed: de, zh, zh-CN, "
            f"cmn_hans_cn, jpn … {f'Did you mean {meant}? ' if meant else ''}Correct it, or set both simulsa_unit and "
            "simulsa_tokenizer, which depend on it."
        )

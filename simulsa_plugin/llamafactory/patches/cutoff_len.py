"""`cutoff_len` with audio: LLaMA-Factory 0.9.5 truncates prompts without regard to their audio tokens.

A prompt with fewer audio tokens than its audio needs stops a training in the middle, with an error of the model that
names neither the rows nor the key. Here it stops during tokenization, with a message that does.
Delete this module when LLaMA-Factory refuses such rows.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.plugin.notices import notify

Encode = Callable[..., tuple[list[int], list[int]]]
_truncated: list[tuple[int, int]] = []  # rows of the batch in work: tokens before, audio tokens lost


def record_truncated_rows(processor_class: type) -> type:
    """Let LLaMA-Factory's `SupervisedDatasetProcessor` record the rows that `cutoff_len` truncates."""
    encode: Encode = processor_class._encode_data_example  # type: ignore[attr-defined]

    @functools.wraps(encode)
    def checked(self: Any, *arguments: Any, **row: Any) -> tuple[list[int], list[int]]:
        input_ids, labels = encode(self, *arguments, **row)
        if len(input_ids) >= self.data_args.cutoff_len:
            whole, _ = encode(_without_cutoff(self), *arguments, **row)
            if len(whole) > len(input_ids):
                _truncated.append((len(whole), _audio_tokens(self, whole) - _audio_tokens(self, input_ids)))
        return input_ids, labels

    processor_class._encode_data_example = checked  # type: ignore[attr-defined]
    return processor_class


def check_truncated_rows(processor_class: type) -> type:
    """Let a processor's `preprocess_dataset` check the truncated rows of each batch, with a warning if they lose text.

    Raises:
        DatasetError: when rows lose audio tokens.
    """
    preprocess: Callable[..., Any] = processor_class.preprocess_dataset  # type: ignore[attr-defined]

    @functools.wraps(preprocess)
    def counted(self: Any, examples: dict[str, list[Any]]) -> Any:
        _truncated.clear()
        rows = preprocess(self, examples)
        _check_truncated(self.data_args.cutoff_len, len(examples["_prompt"]))
        return rows

    processor_class.preprocess_dataset = counted  # type: ignore[attr-defined]
    return processor_class


def _check_truncated(cutoff_len: int, rows: int) -> None:
    lost = [tokens for tokens, audio in _truncated if audio > 0]
    if lost:
        raise DatasetError(
            f"cutoff_len: {cutoff_len} cuts audio tokens off {len(lost)} of the {rows} rows tokenized together, and "
            f"the training would fail at the first of them. The longest has {max(lost)} tokens: set cutoff_len to that "
            "or more, or leave long audio out."
        )
    if _truncated:
        notify(
            f"WARNING: cutoff_len: {cutoff_len} cuts text off {len(_truncated)} of the {rows} rows tokenized together; "
            f"the longest has {max(_truncated)[0]} tokens. Set cutoff_len to that or more: translations are incomplete."
        )


def _without_cutoff(processor: Any) -> Any:
    whole = copy.copy(processor)
    whole.data_args = copy.copy(processor.data_args)
    whole.data_args.cutoff_len = sys.maxsize
    return whole


def _audio_tokens(processor: Any, token_ids: list[int]) -> int:
    token = processor.template.mm_plugin.audio_token
    return token_ids.count(processor.tokenizer.convert_tokens_to_ids(token)) if token else 0

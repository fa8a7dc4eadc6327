"""What simulstream's YAML says about a recipe's speech processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, Literal, get_args

from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import check_choice, check_range, short_repr, unknown_key

Text = Literal["committed", "shown"]
TEXTS: tuple[Text, ...] = get_args(Text)
KEYS_OF_SIMULSTREAM = ("type", "detokenizer_type", "latency_unit")  # the last two are read by its scorers
WRAPPER_KEY = "base_speech_processor_class"


@dataclass(frozen=True)
class ProcessorOptions:
    """Keys of the YAML beside simulstream's own.

    Attributes:
        recipe: path of the recipe; None for the embedded default.
        keys: instead of those of the recipe, such as `model_name_or_path` or `simulsa_cells`.
        speech_chunk_size: seconds of audio that simulstream hands over at a time; None for the chunk of the cell.
        text: committed: what will not change. shown: everything, and what turns out wrong is deleted again.
    """

    recipe: str | None = None
    keys: Mapping[str, Any] | None = None
    speech_chunk_size: float | None = None
    text: Text = "committed"

    def __post_init__(self) -> None:
        if self.recipe is not None and not isinstance(self.recipe, str):
            raise UsageError(f"recipe is {short_repr(self.recipe)}; allowed: the path of a YAML file.")
        if self.keys is not None and not isinstance(self.keys, Mapping):
            raise UsageError(f"keys is {short_repr(self.keys)}; allowed: lines of `key: value` below it.")
        if isinstance(self.speech_chunk_size, bool) or not isinstance(self.speech_chunk_size, (int, float, type(None))):
            raise UsageError(f"speech_chunk_size is {short_repr(self.speech_chunk_size)}; allowed: seconds.")
        check_range("speech_chunk_size", self.speech_chunk_size, above=0)
        check_choice("text", str(self.text), TEXTS)


def read_options(config: SimpleNamespace) -> ProcessorOptions:
    """Read the options out of simulstream's configuration.

    Raises:
        UsageError: a key is unknown or has a wrong value, or the processor is wrapped into simulstream's VAD.
    """
    given = {key: _plain(value) for key, value in vars(config).items()}
    if WRAPPER_KEY in given:
        raise UsageError(
            "simulstream's VADWrapperSpeechProcessor cannot wrap this processor, which finds speech by itself. "
            "Set type to this processor, and simulsa_longform: vad below keys."
        )
    own = [field.name for field in fields(ProcessorOptions)]
    for key in given:
        if key not in own and key not in KEYS_OF_SIMULSTREAM:
            raise unknown_key(key, [*own, *KEYS_OF_SIMULSTREAM])
    return ProcessorOptions(**{key: given[key] for key in own if key in given})


def _plain(value: Any) -> Any:
    """Undo simulstream's conversion of mappings to namespaces."""
    if isinstance(value, SimpleNamespace):
        return {key: _plain(one) for key, one in vars(value).items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value

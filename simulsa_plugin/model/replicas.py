"""Where a model computes: in this process, or as replicas on other machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

from simulsa_plugin.model.protocol import ScoringModel

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class ReplicatedModel(ScoringModel, ABC):
    """A model with its weights on other machines, a replica on each worker, which share no files with this process."""

    @abstractmethod
    def map_unordered(
        self,
        function: Callable[[Any, Item], Result],
        keys: Iterable[Key],
        item_of: Callable[[Key], Item],
        name_of: Callable[[Key], str] = str,
    ) -> Iterator[tuple[Key, Result]]:
        """Call a function on replicas; see `map_unordered`."""


def map_unordered(
    model: Any,
    function: Callable[[Any, Item], Result],
    keys: Iterable[Key],
    item_of: Callable[[Key], Item],
    name_of: Callable[[Key], str] = str,
) -> Iterator[tuple[Key, Result]]:
    """Yield (key, `function(model, item_of(key))`) for every key: in order here, as they come from replicas.

    Args:
        model: an `AudioLanguageModel` or a `ReplicatedModel`, whose replicas are what `function` is called with.
        function: needs no files; for replicas it must be picklable, as must items and results.
        keys: of the items; taken one by one as they are needed.
        item_of: makes an item, in this process and when it is needed, as all of them may not fit into memory.
        name_of: names an item in messages.
    """
    if isinstance(model, ReplicatedModel):
        yield from model.map_unordered(function, keys, item_of, name_of)
        return
    for key in keys:
        yield key, function(model, item_of(key))

"""A model whose replicas are on the workers of a Ray cluster; prompts are rendered here, without its weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.cluster.ray_cluster import connected
from simulsa_plugin.model.protocol import Renderer, ScoringModel
from simulsa_plugin.model.replicas import Item, Key, ReplicatedModel, Result
from simulsa_plugin.model.values import Prompt, ReferenceScores, RenderedReference

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from simulsa_plugin.cluster.pool import WorkerPool


class RayModel(ReplicatedModel):
    """Replicas of a model in a pool of workers."""

    def __init__(self, renderer: Renderer, names: Mapping[str, Any], pool: WorkerPool) -> None:
        """Start nothing yet.

        Args:
            renderer: of the model.
            names: of model, adapter and template, as the recipe has them; a node may have other paths.
            pool: of workers that load it.
        """
        self._renderer, self._names, self._pool = renderer, names, pool
        self.window_seconds, self.end_tokens = renderer.window_seconds, renderer.end_tokens

    @property
    def output_width(self) -> int:  # type: ignore[override]  # it is not known before a replica is loaded
        """V, the number of logits at each position."""
        return self._pool.replica.output_width

    def describe(self) -> dict[str, Any]:
        """Return model, adapter, template, weights, dtype and device of the first replica."""
        return {**self._pool.replica.description, **self._names}

    def hardware(self) -> dict[str, Any]:
        """Return what the first replica runs on."""
        return dict(self._pool.replica.hardware)

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokenize prompt and reference."""
        return self._renderer.render(prompt, waveform, reference)

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Tokenize a prompt."""
        return self._renderer.render_prompt(prompt, waveform)

    def count_tokens(self, prompt: Prompt, waveform: Waveform, reference: str) -> tuple[int, int]:
        """Count the tokens of prompt and reference."""
        return self._renderer.count_tokens(prompt, waveform, reference)

    def unstable_prefixes(self, rendered: RenderedReference, reference: str) -> tuple[int, ...]:
        """Return the lengths of token prefixes whose text training would tokenize differently."""
        return self._renderer.unstable_prefixes(rendered, reference)

    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Score references in one batch, on some replica."""
        calls = self.map_unordered(_score, ["a batch"], lambda _: (rendered, waveforms))
        ((_, scores),) = calls
        return scores

    def map_unordered(
        self,
        function: Callable[[Any, Item], Result],
        keys: Iterable[Key],
        item_of: Callable[[Key], Item],
        name_of: Callable[[Key], str] = str,
    ) -> Iterator[tuple[Key, Result]]:
        """Call a function on replicas; see `model.replicas.map_unordered`, and `pool` for what may be wrong."""
        return self._pool.map_unordered(function, keys, item_of, name_of)


def _score(model: ScoringModel, batch: tuple[Sequence[RenderedReference], Sequence[Waveform]]) -> list[ReferenceScores]:
    return model.score(*batch)


@contextlib.contextmanager
def replicated(
    settings: ClusterSettings,
    renderer: Renderer,
    names: Mapping[str, Any],
    load: Callable[[], Any],
    threads: int,
    modules: Iterable[str] = (),
) -> Iterator[RayModel]:
    """Give a model whose replicas compute on a Ray cluster for as long as the context lasts.

    Args:
        settings: which cluster, and how much of it.
        renderer: of the model.
        names: see `RayModel`.
        load: loads the model on a worker; picklable.
        threads: for arithmetic on the processor, as here; other numbers may change the last digits of results.
        modules: of custom policies, which travel to the workers as they are here.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    with connected(settings):
        from simulsa_plugin.cluster.pool import WorkerPool, cluster_in_words
        from simulsa_plugin.cluster.room import most_workers, worker_needs
        from simulsa_plugin.cluster.travelling import travelling

        needs = worker_needs(settings, threads)
        most = settings.ray_workers or most_workers(needs)
        logger.info(f"computing on Ray, on up to {most} workers with {needs} each; {cluster_in_words()}")
        pool = WorkerPool(load, needs, most)
        with travelling(modules):
            try:
                yield RayModel(renderer, names, pool)
            finally:
                pool.close()

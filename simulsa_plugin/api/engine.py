"""`simulsa_engine`: a model that computes in this process, or replicas of it on a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api import loading
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.api.recipe import Recipe
    from simulsa_plugin.cluster.cluster_settings import ClusterSettings
    from simulsa_plugin.cluster.replicas import RayModel
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.llamafactory.model.backbone import Backbone
    from simulsa_plugin.sharding import Shard

_PATH_KEYS = ("model_name_or_path", "adapter_name_or_path")


def read_engine(recipe: Recipe, share: Shard | None = None, *, measures_time: bool = False) -> ClusterSettings:
    """Read where models compute, before anything heavy is imported.

    Raises:
        UsageError: a key has a wrong value, or does not go with a share of the work or measured times.
        MissingExtraError: Ray is asked for, and not installed.
        ClusterError: nothing listens at the address of the cluster.
    """
    from simulsa_plugin.cluster.cluster_settings import ClusterSettings
    from simulsa_plugin.cluster.ray_cluster import check_ray

    settings = ClusterSettings.from_keys(recipe.simulsa)
    if not settings.is_ray:
        return settings
    if share is not None:
        raise UsageError("simulsa_engine=ray shares the work out by itself. Leave out --shard, or torchrun, or it.")
    if measures_time:
        raise UsageError("simulsa_measure_time is for a single process. Leave it out, or set simulsa_engine=local.")
    check_ray(settings)
    return settings


@contextlib.contextmanager
def computing(
    engine: ClusterSettings,
    toolkit_keys: Mapping[str, Any],
    names: list[str],
    check: Callable[[list[OfflineDataset]], None],
    settings: EvaluationSettings | None = None,
) -> Iterator[tuple[Backbone | RayModel, list[OfflineDataset]]]:
    """Load datasets, then the model: here, or on the workers of a cluster for as long as the context lasts.

    Args:
        engine: where.
        toolkit_keys: see `load_model_and_data`.
        names: of the datasets.
        check: is called with the datasets before the model is loaded.
        settings: of a model that decodes; None for one that scores.

    Raises:
        SimulsaError: keys, datasets, model or cluster are wrong.
    """
    memory = None if settings is None else settings.eval_memory_gb * 1e9
    cuda_graphs = settings is not None and settings.cuda_graphs
    if not engine.is_ray:
        loaded, datasets = loading.load_model_and_data(toolkit_keys, names, memory, check)
        yield _prepared(loaded, memory, cuda_graphs=cuda_graphs), datasets
        return
    loading.activate_plugin()
    from simulsa_plugin.cluster.replicas import replicated
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.counted_prompts import load_counting_renderer
    from simulsa_plugin.llamafactory.model.threads import num_threads

    arguments = inference_arguments(toolkit_keys)
    datasets = load_datasets(arguments, names)
    check(datasets)
    renderer, threads = load_counting_renderer(arguments), num_threads()
    keys = with_absolute_paths(toolkit_keys)
    load = functools.partial(load_replica, keys, memory, threads, cuda_graphs=cuda_graphs)
    policies = () if settings is None else settings.policies
    modules = [name.rpartition(".")[0] for name in policies if "." in name]
    with replicated(engine, renderer, renderer.description, load, threads, modules) as model:
        yield model, datasets


def load_replica(
    toolkit_keys: Mapping[str, Any], memory_bytes: float | None, threads: int, *, cuda_graphs: bool
) -> Backbone:
    """Load a replica of the model on a worker, to compute as the main process would."""
    loading.activate_plugin()
    from simulsa_plugin.llamafactory.model.threads import use_threads

    use_threads(threads)
    return _prepared(loading.load_model(toolkit_keys, memory_bytes), memory_bytes, cuda_graphs=cuda_graphs)


def _prepared(model: Backbone, memory_bytes: float | None, *, cuda_graphs: bool) -> Backbone:
    """Return a model after it has been told how to decode."""
    if cuda_graphs and memory_bytes is not None:
        model.use_cuda_graphs(memory_bytes)
    return model


def with_absolute_paths(toolkit_keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys in which local folders of model and adapters are absolute: workers have other working folders."""
    changed = {
        key: ",".join(_absolute_where_local(name) for name in toolkit_keys[key].split(","))
        for key in _PATH_KEYS
        if isinstance(toolkit_keys.get(key), str)
    }
    return {**toolkit_keys, **changed}


def _absolute_where_local(name: str) -> str:
    path = Path(name.strip())
    return str(path.absolute()) if path.is_dir() else name

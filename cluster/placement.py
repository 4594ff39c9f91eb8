"""How many labelers fit on the cluster, and what each may use.

A GPU gets one labeler. Without GPUs, labelers share the CPUs; one labeler a core was fastest there (a model this size
gains less from a second thread than from a second worker). Each labeler's readers get a fraction of a CPU beside it,
because a child that asks for a whole CPU when none is free waits for ever, silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.ray_session import NodeResources
from shards.config import ConfigError

READERS_CPU_SHARE = 0.2  # of a labeler's CPUs; Ray's CPUs are bookkeeping, the kernel shares the real ones


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerPlacement:
    """One labeler's share of a node: the bundles of its placement group, and its number of threads."""

    bundles: tuple[dict[str, float], dict[str, float]]
    num_threads: int


def place_labelers(nodes: Sequence[NodeResources], num_labelers: int | None) -> list[LabelerPlacement]:
    """One placement a labeler. Raises ConfigError when the cluster cannot hold as many as asked for."""
    num_gpus = sum(int(node.num_gpus) for node in nodes)
    if num_gpus:
        return _on_gpus(nodes, num_gpus, num_labelers)
    return _on_cpus(nodes, num_labelers)


def _on_gpus(nodes: Sequence[NodeResources], num_gpus: int, num_labelers: int | None) -> list[LabelerPlacement]:
    wanted = num_gpus if num_labelers is None else num_labelers
    if wanted > num_gpus:
        raise ConfigError(f"got --num-labelers {wanted}, but the cluster has {num_gpus} GPUs; a labeler takes one")
    shares = [node.num_cpus / node.num_gpus for node in nodes for _ in range(int(node.num_gpus))]
    return [_share(cpus, num_gpus=1.0) for cpus in sorted(shares, reverse=True)[:wanted]]


def _on_cpus(nodes: Sequence[NodeResources], num_labelers: int | None) -> list[LabelerPlacement]:
    cores = [int(node.num_cpus) for node in nodes]
    total = sum(cores)
    wanted = total if num_labelers is None else num_labelers
    if wanted < 1 or wanted > total:
        raise ConfigError(f"got --num-labelers {wanted}, expected 1 to {total}, the cluster's number of CPUs")
    counts = [0] * len(cores)
    for _ in range(wanted):  # one after another to the node with most cores per labeler
        roomiest = max(range(len(cores)), key=lambda node: cores[node] / (counts[node] + 1))
        counts[roomiest] += 1
    return [_share(cores[node] / count, num_gpus=0.0) for node, count in enumerate(counts) for _ in range(count)]


def _share(num_cpus: float, *, num_gpus: float) -> LabelerPlacement:
    readers = round(num_cpus * READERS_CPU_SHARE, 2)
    labeler = {"CPU": round(num_cpus - readers, 2)} | ({"GPU": num_gpus} if num_gpus else {})
    return LabelerPlacement(bundles=(labeler, {"CPU": readers}), num_threads=max(1, int(num_cpus)))

"""How many workers fit on the cluster, and what each of them may use.

A GPU gets one worker. Without GPUs, workers share the CPUs, one worker a core: that was fastest,
because a model of this size gains less from a second thread than from a second process. Each
worker's readers get a fraction of a CPU beside it. With a whole CPU each, they would wait for ever,
and silently, on a cluster where none is free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.nodes.session import NodeResources
from shards.config import ConfigError

# Of a worker's CPUs. Ray only counts CPUs; the kernel shares the real ones.
READERS_CPU_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlacement:
    """One worker's share of a node: its resources and its number of threads.

    `bundles` are those of its placement group: the worker's first, its readers' second.
    """

    bundles: tuple[dict[str, float], dict[str, float]]
    num_threads: int


def place_workers(
    nodes: Sequence[NodeResources], wanted: int | None, *, or_fewer: bool = False
) -> list[WorkerPlacement]:
    """Return one placement for each worker.

    Raises ConfigError when the cluster cannot hold as many as `wanted`, unless fewer will do.
    """
    num_gpus = sum(int(node.num_gpus) for node in nodes)
    if or_fewer:
        most = num_gpus or sum(int(node.num_cpus) for node in nodes)
        wanted = most if wanted is None else min(wanted, most)
        if wanted == 0:
            return []

    if num_gpus:
        return _on_gpus(nodes, num_gpus, wanted)
    return _on_cpus(nodes, wanted)


def _on_gpus(
    nodes: Sequence[NodeResources], num_gpus: int, wanted: int | None
) -> list[WorkerPlacement]:
    wanted = num_gpus if wanted is None else wanted
    if wanted > num_gpus:
        raise ConfigError(
            f"got {wanted} workers, but the cluster has {num_gpus} GPUs, and a worker takes one"
        )
    shares = [node.num_cpus / node.num_gpus for node in nodes for _ in range(int(node.num_gpus))]
    return [_share(cpus, num_gpus=1.0) for cpus in sorted(shares, reverse=True)[:wanted]]


def _on_cpus(nodes: Sequence[NodeResources], wanted: int | None) -> list[WorkerPlacement]:
    cores = [int(node.num_cpus) for node in nodes]
    total = sum(cores)
    wanted = total if wanted is None else wanted
    if wanted < 1 or wanted > total:
        raise ConfigError(
            f"got {wanted} workers, expected 1 to {total}, the cluster's number of CPUs"
        )

    # Each worker goes to the node that then has most cores per worker.
    counts = [0] * len(cores)
    for _ in range(wanted):
        roomiest = max(range(len(cores)), key=lambda node: cores[node] / (counts[node] + 1))
        counts[roomiest] += 1

    return [
        _share(cores[node] / count, num_gpus=0.0)
        for node, count in enumerate(counts)
        for _ in range(count)
    ]


def _share(num_cpus: float, *, num_gpus: float) -> WorkerPlacement:
    """The bundles, in hundredths of a CPU rounded down, so that all shares together fit a node."""
    hundredths = math.floor(100 * num_cpus + 1e-6)
    readers = int(hundredths * READERS_CPU_SHARE)
    worker = {"CPU": (hundredths - readers) / 100, "GPU": num_gpus}

    bundles = (_nonzero(worker), _nonzero({"CPU": readers / 100}))
    return WorkerPlacement(bundles=bundles, num_threads=max(1, int(num_cpus)))


def _nonzero(bundle: dict[str, float]) -> dict[str, float]:
    """Ray takes no amounts of 0 and no empty bundle; a node without CPUs still has memory."""
    return {name: amount for name, amount in bundle.items() if amount} or {"memory": 1.0}

"""How many workers fit on the cluster, and what each of them may use.

A GPU gets one worker. Without GPUs, workers share the CPUs, one worker a core: that was fastest,
because a model of this size gains less from a second thread than from a second process. Each
worker's readers get a fraction of a CPU beside it. With a whole CPU each, they would wait for ever,
and silently, on a cluster where none is free.
"""

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


def place_workers(nodes: Sequence[NodeResources], wanted: int | None) -> list[WorkerPlacement]:
    """Return one placement for each worker.

    Raises ConfigError when the cluster cannot hold as many as `wanted`.
    """
    num_gpus = sum(int(node.num_gpus) for node in nodes)
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
    readers = round(num_cpus * READERS_CPU_SHARE, 2)
    worker = {"CPU": round(num_cpus - readers, 2)} | ({"GPU": num_gpus} if num_gpus else {})
    return WorkerPlacement(bundles=(worker, {"CPU": readers}), num_threads=max(1, int(num_cpus)))

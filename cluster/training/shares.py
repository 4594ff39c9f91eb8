"""How many runs a cluster trains at once, and what each of them may use.

A run takes a GPU for each of its workers where the cluster has GPUs, otherwise a CPU. The CPUs that
are left over are divided among the runs of one process, as threads. The number of threads decides
how sums are rounded, so it depends on the number of all runs and not of those that are left to do,
and whoever wants the bits of a run elsewhere gives OMP_NUM_THREADS.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shards.config import ConfigError

if TYPE_CHECKING:
    from cluster.nodes.session import NodeResources  # with Ray, which the help text does not need


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The number of runs at once, and the CPUs and GPUs of the process that does a run.

    The process of a run with several workers only waits for them, and has no CPU of its own.
    """

    at_once: int
    num_cpus: int
    num_gpus: int


def share_of(
    nodes: "Sequence[NodeResources]", *, num_runs: int, num_workers: int, num_threads: int | None
) -> Share:
    """The share of each of `num_runs` runs with `num_workers` workers, of which one must fit.

    `num_threads` is the number of threads of a run of one process, if it is given. Raises
    ConfigError when no node has as many CPUs.
    """
    num_gpus = sum(int(node.num_gpus) for node in nodes)
    places = num_gpus or sum(int(node.num_cpus) for node in nodes)
    at_once = max(1, min(num_runs, places // num_workers))
    if num_workers > 1:
        return Share(at_once=at_once, num_cpus=0, num_gpus=0)

    most = max((int(node.num_cpus) for node in nodes), default=0)
    if num_threads is not None:
        fitting = _fitting(nodes, num_threads, with_gpu=num_gpus > 0)
        if not fitting:
            raise ConfigError(
                f"OMP_NUM_THREADS: got {num_threads}, but no node of the cluster has more than "
                f"{most} CPUs; give at most as many"
            )
        return Share(at_once=min(at_once, fitting), num_cpus=num_threads, num_gpus=min(num_gpus, 1))

    enough = (
        num_cpus
        for num_cpus in range(most, 0, -1)
        if _fitting(nodes, num_cpus, with_gpu=num_gpus > 0) >= at_once
    )
    return Share(at_once=at_once, num_cpus=next(enough, 0), num_gpus=min(num_gpus, 1))


def threads_wanted() -> int | None:
    """The number in OMP_NUM_THREADS; None without one."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


def _fitting(nodes: "Sequence[NodeResources]", num_cpus: int, *, with_gpu: bool) -> int:
    """How many processes of `num_cpus` CPUs, and perhaps a GPU, fit on the nodes."""
    return sum(
        min(int(node.num_cpus) // num_cpus, int(node.num_gpus))
        if with_gpu
        else int(node.num_cpus) // num_cpus
        for node in nodes
    )

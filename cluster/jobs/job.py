"""What the jobs over shards have in common: run what is missing on Ray, and account for every input."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from actors.work.task import ShardOutcome
from cluster.jobs.plan import ShardPlan
from cluster.progress import progress

if TYPE_CHECKING:
    from cluster.jobs.run import FailedShard  # with Ray, which only a run that needs it imports


class JobOptions(Protocol):
    """Options of every job over shards."""

    @property
    def address(self) -> str | None:
        """Ray cluster."""

    @property
    def num_readers(self) -> int:
        """Reader processes beside each worker."""

    @property
    def max_attempts(self) -> int:
        """Times a shard is tried."""


def run_missing(
    plan: ShardPlan,
    options: JobOptions,
    num_workers: int | None,
    *,
    verb: str,
    what: str,
    actor: Callable[[], Any],
    arguments: tuple[Any, ...],
) -> tuple[list[ShardOutcome], "list[FailedShard]"]:
    """Do the plan's missing shards with workers of the class that `actor` imports; see `ShardRun`."""
    if not plan.todo:
        return [], []
    from cluster.jobs.run import ShardRun
    from cluster.nodes.placement import place_workers
    from cluster.nodes.session import ray_session

    with ray_session(options.address) as nodes, progress(verb, "shards") as update:
        run = ShardRun(
            actor=actor(),
            arguments=arguments,
            what=what,
            out=plan.out,
            num_readers=options.num_readers,
            max_attempts=options.max_attempts,
            on_progress=_with_rate(update, len(plan.todo)),
        )
        run.run(plan.todo, place_workers(nodes, num_workers))
    return run.outcomes, run.failed


def _with_rate(update: Callable[..., None], total: int) -> Callable[[int, int], None]:
    started = time.monotonic()

    def on_progress(finished: int, utterances: int) -> None:
        rate = utterances / max(time.monotonic() - started, 1e-9)
        update(finished, total, note=f"{utterances} utterances, {rate:.1f} a second")

    return on_progress

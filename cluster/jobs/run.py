"""The driver of a job over shards: it deals out shards, replaces dead workers, counts attempts.

It never touches a sample. A plain `ray.wait` loop costs 0.2 to 0.3 ms a shard, so nothing cleverer
is needed. Ray's own retries are off: without a limit they would repeat for ever a shard that kills
its worker, and one killed worker gives several errors, only one of which concerns the shard in
hand. Here the shard that was in hand is charged one attempt, and the shards that wait behind it
none. A place of the cluster is given up when it loses workers over many different shards. The
number is high, so that a few shards that kill every worker do not take the place from the others.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.work.errors import UnusableModelsError, UnwritableFolderError
from actors.work.task import ShardOutcome, ShardTask
from cluster.nodes.placement import WorkerPlacement
from shards.config import ConfigError
from shards.progress import OnProgress

log = logging.getLogger(__name__)

PLACEMENT_TIMEOUT_SECONDS = 120.0
SETUP_TIMEOUT_SECONDS = 1800.0  # weights may have to be downloaded first
# A place is given up after it has lost workers over so many shards or set-ups in a row.
LOSSES_PER_PLACE = 8
POLL_SECONDS = 0.5
REPORT_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard that this run gave up, and why; the next run tries it again."""

    name: str
    attempts: int
    error: str


@dataclass(slots=True)
class _Worker:
    """One placement, and the actor that lives in it now."""

    placement: WorkerPlacement
    group: Any
    handle: Any = None
    setup: Any = None  # reference to the running set-up, None once it is done
    setup_deadline: float = 0.0
    queue: "collections.OrderedDict[Any, ShardTask]" = field(
        default_factory=collections.OrderedDict
    )
    # The shards and set-ups over which workers were lost since a shard was last finished.
    lost_on: set[str] = field(default_factory=set)
    num_utterances: int = 0


@dataclass(slots=True, kw_only=True)
class ShardRun:
    """One run over `todo`; `run` returns when every shard is done or given up.

    `actor` is a remote `ShardWorker`, and `arguments` is what its constructor takes before its
    threads and readers. `what` names the models in messages. `out` is the folder of the tables;
    every worker must be able to write it.
    """

    actor: Any
    arguments: tuple[Any, ...]
    what: str
    out: str
    num_readers: int
    max_attempts: int
    on_progress: OnProgress
    outcomes: list[ShardOutcome] = field(default_factory=list)
    failed: list[FailedShard] = field(default_factory=list)
    _waiting: "collections.deque[ShardTask]" = field(default_factory=collections.deque)
    _attempts: "collections.Counter[str]" = field(default_factory=collections.Counter)
    _errors: dict[str, str] = field(default_factory=dict)  # the last one of each shard
    _workers: list[_Worker] = field(default_factory=list)
    _retired_utterances: int = 0
    _reported_at: float = 0.0
    _started_at: float = 0.0
    _num_shards: int = 0

    def run(self, todo: Sequence[ShardTask], placements: Sequence[WorkerPlacement]) -> None:
        """Make the tables of `todo`.

        Raises ConfigError when the models cannot be loaded or the cluster has no room.
        """
        self._waiting.extend(todo)
        self._num_shards, self._started_at = len(todo), time.monotonic()

        try:
            for placement in placements[: len(todo)]:
                self._workers.append(_Worker(placement, _reserve(placement)))

            while self._workers and (
                self._waiting or any(worker.queue for worker in self._workers)
            ):
                self._deal()
                self._collect()
                self._report()

            self._give_up_rest()
            self._tell(sum(outcome.num_utterances for outcome in self.outcomes))
        finally:
            self._close()

    def _deal(self) -> None:
        """Give every worker a shard and, while there are enough, the next ones to read ahead."""
        for worker in self._workers:
            if worker.handle is None:
                self._start(worker)

        # Why by depth: every worker gets its first shard before any gets its second.
        for depth in range(1, self.num_readers + 1):
            for worker in self._workers:
                if worker.setup is None and len(worker.queue) < depth and self._waiting:
                    task = self._waiting.popleft()
                    worker.handle.prepare.remote(task)
                    worker.queue[worker.handle.work.remote(task)] = task

    def _start(self, worker: _Worker) -> None:
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=worker.group, placement_group_bundle_index=0
        )
        bundle = worker.placement.bundles[0]
        worker.handle = self.actor.options(
            num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=strategy
        ).remote(*self.arguments, worker.placement.num_threads, self.num_readers)

        worker.setup = worker.handle.setup.remote(self.out)
        worker.setup_deadline = time.monotonic() + SETUP_TIMEOUT_SECONDS

    def _collect(self) -> None:
        owners = {
            ref: worker for worker in self._workers for ref in [worker.setup, *worker.queue] if ref
        }

        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        for ref in ready:
            worker = owners[ref]
            if ref == worker.setup:  # equal, not the same: Ray Client returns copies
                self._finish_setup(worker)
            else:
                self._finish_shard(worker, ref)

        for worker in self._workers:
            if worker.setup is not None and time.monotonic() > worker.setup_deadline:
                raise ConfigError(
                    f"{self.what} was not loaded within {SETUP_TIMEOUT_SECONDS:.0f} s; check its "
                    "checkpoints"
                )

    def _finish_setup(self, worker: _Worker) -> None:
        try:
            pid = ray.get(worker.setup)
        except RayTaskError as error:
            cannot = (
                ""
                if isinstance(error.cause, UnwritableFolderError)
                else f"{self.what} cannot be loaded: "
            )
            raise ConfigError(f"{cannot}{_reason(error)}") from error
        except RayActorError as lost:
            self._replace(worker, lost)
            return

        worker.setup = None
        log.info("worker %s is ready", pid)

    def _finish_shard(self, worker: _Worker, ref: Any) -> None:
        try:
            outcome = ray.get(ref)
        except RayActorError as lost:
            self._replace(worker, lost)
            return
        except RayTaskError as error:
            if isinstance(error.cause, UnusableModelsError):
                raise ConfigError(f"{self.what} cannot be loaded: {_reason(error)}") from error
            self._charge(worker.queue.pop(ref), _reason(error))
            return

        worker.queue.pop(ref)
        worker.lost_on.clear()
        self.outcomes.append(outcome)

    def _replace(self, worker: _Worker, lost: Exception) -> None:
        """Take back the shards of a dead worker.

        The shard in hand is charged an attempt; those that waited behind it are not.
        """
        log.warning("a worker was lost (%s); starting another", type(lost).__name__)

        tasks = list(worker.queue.values())
        worker.queue.clear()
        self._waiting.extendleft(reversed(tasks[1:]))
        if tasks:
            self._charge(
                tasks[0],
                f"the worker died while it worked on this shard: {str(lost).splitlines()[0]}",
            )

        self._retired_utterances += worker.num_utterances
        worker.num_utterances = 0
        ray.kill(worker.handle)
        worker.handle = worker.setup = None

        worker.lost_on.add(tasks[0].url if tasks else f"set-up after {len(worker.lost_on)} losses")
        if len(worker.lost_on) >= LOSSES_PER_PLACE:
            log.error(
                "a place of the cluster lost workers over %d shards in a row; it is given up",
                LOSSES_PER_PLACE,
            )
            remove_placement_group(worker.group)
            self._workers.remove(worker)

    def _charge(self, task: ShardTask, error: str) -> None:
        self._attempts[task.url] += 1
        self._errors[task.url] = error
        if self._attempts[task.url] < self.max_attempts:
            log.warning("%s: attempt %d failed: %s", task.name, self._attempts[task.url], error)
            self._waiting.appendleft(task)
            return

        log.error("%s: given up after %d attempts: %s", task.name, self._attempts[task.url], error)
        self.failed.append(FailedShard(task.name, self._attempts[task.url], error))

    def _give_up_rest(self) -> None:
        for task in self._waiting:
            last = (
                f"; the last attempt: {self._errors[task.url]}" if task.url in self._errors else ""
            )
            self.failed.append(
                FailedShard(task.name, self._attempts[task.url], f"no worker was left for it{last}")
            )
        self._waiting.clear()

    def _report(self) -> None:
        if time.monotonic() - self._reported_at < REPORT_INTERVAL_SECONDS:
            return

        self._reported_at = time.monotonic()
        asked = [
            worker for worker in self._workers if worker.setup is None and worker.handle is not None
        ]

        for worker in asked:
            # Why suppressed: the next round of `_collect` finds a lost worker anyway.
            with contextlib.suppress(RayActorError, GetTimeoutError):
                worker.num_utterances = ray.get(
                    worker.handle.progress.remote(), timeout=POLL_SECONDS
                )

        self._tell(
            self._retired_utterances + sum(worker.num_utterances for worker in self._workers)
        )

    def _tell(self, num_utterances: int) -> None:
        """Report the finished shards, and the utterances of unfinished shards too."""
        rate = num_utterances / max(time.monotonic() - self._started_at, 1e-9)
        note = f"{num_utterances} utterances, {rate:.1f} a second"
        self.on_progress(len(self.outcomes), self._num_shards, note=note)

    def _close(self) -> None:
        for worker in self._workers:
            if worker.handle is not None:
                ray.kill(worker.handle)
            remove_placement_group(worker.group)


def _reason(error: RayTaskError) -> str:
    """Return what went wrong in a worker, for a person."""
    cause = error.cause
    return str(cause) if isinstance(cause, ConfigError) else f"{type(cause).__name__}: {cause}"


def _reserve(placement: WorkerPlacement) -> Any:
    """Reserve a place on one node for a worker and its readers.

    Raises ConfigError when there is none within the time limit.
    """
    group = placement_group(list(placement.bundles), strategy="STRICT_PACK")
    if group.wait(PLACEMENT_TIMEOUT_SECONDS):
        return group

    remove_placement_group(group)
    raise ConfigError(
        f"the cluster has no room for a worker with {placement.bundles} within "
        f"{PLACEMENT_TIMEOUT_SECONDS:.0f} s: wait for the jobs that hold its resources, or ask for "
        "fewer workers"
    )

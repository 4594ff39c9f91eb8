"""Runs side by side on Ray: as many at once as the cluster has room for, each on its own.

A run of one process is a Ray task, which Ray tries again when its machine dies; a run of several is
a task that waits for a Ray Train run. What a run computes does not depend on what runs beside it,
so its checkpoints are those of a run alone with as many threads. Handing all tasks to Ray at once
was rejected: Ray Train gives up when its workers find no room for some minutes.
"""

import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.progress import progress
from cluster.training.ending import Ending, ending_of
from cluster.training.on_ray import (
    MAX_FAILURES,
    MESSAGE_SECONDS,
    queue_here,
    require_resources,
    train_with_workers,
)
from cluster.training.shares import Share, share_of, threads_wanted
from cluster.training.worker import SentRun, train_in_worker, use_threads
from shards.progress import OnProgress
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from trainers.engine.run import TrainingResult

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
MAX_MESSAGES = 1000


def train_side_by_side(runs: Mapping[int, TrainConfig], num_all: int) -> dict[int, Ending]:
    """Train `runs`, by number, on the Ray of their options. Returns how each of them ended.

    They are those of `num_all` runs that are not finished. Raises ConfigError when the cluster
    cannot hold one of them.
    """
    from cluster.nodes.session import ray_session

    if not runs:
        return {}

    config = next(iter(runs.values()))
    with ray_session(config.address) as nodes, progress("train", "steps") as update:
        require_resources(config.num_workers, nodes)
        share = share_of(
            nodes,
            num_runs=num_all,
            num_workers=config.num_workers,
            num_threads=threads_wanted(),
        )
        return _Runs(runs, share, _Steps(len(runs), update)).finish()


class _Steps:
    """The steps of several runs as one number."""

    def __init__(self, num_runs: int, update: OnProgress) -> None:
        self._num_runs, self._update = num_runs, update
        self._reached: dict[int, tuple[int, int]] = {}

    def show(self, number: int, done: int, total: int, note: str) -> None:
        """Run `number` has taken `done` of `total` steps; runs not yet begun count as long."""
        self._reached[number] = done, total
        steps, known = (sum(column) for column in zip(*self._reached.values(), strict=True))
        whole = known * self._num_runs // len(self._reached)
        self._update(steps, whole, f"fold {number}: {note}")


class _Runs:
    """Runs that wait, those that Ray works on, and how the others ended."""

    def __init__(self, runs: Mapping[int, TrainConfig], share: Share, steps: _Steps) -> None:
        import ray

        self._waiting = deque(
            (number, SentRun.of(config), config.num_workers) for number, config in runs.items()
        )
        self._share, self._steps, self._messages = share, steps, queue_here()
        self._running: dict[Any, int] = {}
        self._endings: dict[int, Ending] = {}
        # Every run has a process of its own, because a process trains in one group for ever.
        self._start = ray.remote(
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus,
            max_calls=1,
            max_retries=MAX_FAILURES,
        )(_train)

    def finish(self) -> dict[int, Ending]:
        """Wait until all runs have ended."""
        import ray

        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._share.at_once:
                number, run, num_workers = self._waiting.popleft()
                task = self._start.remote(number, run, num_workers, self._share, self._messages)
                self._running[task] = number

            ready, _ = ray.wait(list(self._running), timeout=POLL_SECONDS)
            self._show()
            for task in ready:
                number = self._running.pop(task)
                self._endings[number] = _ending(number, task)

        return dict(sorted(self._endings.items()))

    def _show(self) -> None:
        for message in self._messages.get_nowait_batch(min(self._messages.qsize(), MAX_MESSAGES)):
            self._steps.show(*message)


def _ending(number: int, task: Any) -> Ending:
    import ray

    try:
        ending: Ending = ray.get(task)
    except ray.exceptions.RayError as error:
        log.debug("run %s failed", number, exc_info=error)
        last = str(error).strip().splitlines()[-1]
        return Ending(kind="stopped", reason=f"its process failed: {last}")
    return ending


def _train(number: int, run: SentRun, num_workers: int, share: Share, messages: Any) -> Ending:
    """Do a run in a task of Ray."""

    def on_step(done: int, total: int, note: str = "") -> None:
        messages.put((number, done, total, note), timeout=MESSAGE_SECONDS)

    def train() -> "TrainingResult":
        from trainers.engine.validation import unwatched

        if num_workers > 1:
            return train_with_workers(run, num_workers, on_step, unwatched)

        use_threads(share.num_cpus)
        return train_in_worker(run, on_step, unwatched)

    return ending_of(train)

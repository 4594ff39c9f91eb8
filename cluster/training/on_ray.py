"""Training with Ray Train workers, the first of which reports to the driver."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from cluster.progress import progress
from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.progress import OnProgress
from trainers.config import TrainConfig
from trainers.engine.checkpoints import CHECKPOINTS_NAME, refuse_used_folder

if TYPE_CHECKING:
    from cluster.nodes.session import NodeResources
    from trainers.engine.run import TrainingResult  # with torch, which the help text does not need

MAX_FAILURES = 3
POLL_SECONDS = 0.5
MESSAGE_SECONDS = 10.0


class WorkersFailedError(RuntimeError):
    """The Ray workers failed more often than they may be started again."""


def train_on_ray(config: TrainConfig) -> "TrainingResult":
    """Train with `num_workers` Ray Train workers, on a GPU each where the cluster has GPUs.

    Raises ConfigError when the cluster has too few resources, WorkersFailedError when the workers
    failed too often.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.nodes.session import ray_session
    from trainers.engine.run import TrainingResult

    out = os.path.abspath(config.out)
    # Why here: a worker cannot tell a used folder from a restart of its own run.
    refuse_used_folder(Path(out), resume=config.resume)

    with ray_session(config.address) as nodes, progress("train", "steps") as update:
        use_gpu = _require_resources(config.num_workers, nodes)
        # Why on this node: if the queue died with another node, the run would die with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "options": to_mapping(replace(config, out=out)),
                "folder": os.getcwd(),
                "messages": queue,
            },
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name="ray",
                storage_path=out,
                # Why a limit for the controller too: without one, the run waits for ever for a
                # cluster that is busy with other work.
                failure_config=FailureConfig(
                    max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES
                ),
            ),
        )

        listener = _Listener(queue, update)
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise WorkersFailedError(_reason(error)) from error
        finally:
            kind, found = listener.finish()

    if kind == "refused":
        raise ConfigError(found)
    return TrainingResult(**found)


class _Listener:
    """Shows the first worker's progress as it comes, and keeps how it ended."""

    def __init__(self, queue: Any, update: OnProgress) -> None:
        self._queue, self._update = queue, update
        self._end: tuple[str, Any] = (
            "refused",
            "the first worker ended without reporting a result",
        )
        self._is_over = Event()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()

    def finish(self) -> tuple[str, Any]:
        """Return ("result", the result) or ("refused", the reason), after the last message."""
        self._is_over.set()
        self._thread.join(MESSAGE_SECONDS)
        return self._end

    def _listen(self) -> None:
        from ray.util.queue import Empty

        while True:
            try:
                kind, *values = self._queue.get(timeout=POLL_SECONDS)
            except Empty:
                if self._is_over.is_set():
                    return
                continue

            if kind == "step":
                self._update(*values)
            else:
                self._end = (kind, values[0])


def _work(values: dict[str, Any]) -> None:
    """Run one Ray Train worker; a worker that is started again resumes."""
    from ray.train import get_context

    from trainers.training import run_training

    # Why: relative paths begin in this folder, but Ray Train has moved to a folder of its own.
    if os.path.isdir(values["folder"]):
        os.chdir(values["folder"])

    config = from_mapping(TrainConfig, values["options"], where="options")
    has_checkpoint = os.path.isdir(os.path.join(config.out, CHECKPOINTS_NAME))
    is_first = get_context().get_world_rank() == 0

    def say(*message: Any) -> None:
        if is_first:
            values["messages"].put(message, timeout=MESSAGE_SECONDS)

    config = replace(config, resume=config.resume or has_checkpoint)
    try:
        result = run_training(config, lambda done, total, note="": say("step", done, total, note))
    except ConfigError as error:
        # Why not raised: every worker raises the same error, and Ray Train would start them again
        # as if they had died.
        say("refused", str(error))
    else:
        say("result", asdict(result))


def _require_resources(num_workers: int, nodes: "list[NodeResources]") -> bool:
    """Return whether workers get a GPU each.

    Raises ConfigError when the cluster is too small: Ray would wait until it grows.
    """
    num_gpus, num_cpus = sum(node.num_gpus for node in nodes), sum(node.num_cpus for node in nodes)
    use_gpu = num_gpus >= 1
    if num_workers > (num_gpus if use_gpu else num_cpus):
        raise ConfigError(
            f"--num-workers: got {num_workers}, the cluster has {num_gpus:g} GPUs and {num_cpus:g} "
            "CPUs"
        )
    return use_gpu


def _reason(error: Exception) -> str:
    """Return the last line of each worker's failure, once; the lines before it are Ray's stack."""
    failures = getattr(error, "worker_failures", {0: error})
    lines = {
        str(failure).strip().splitlines()[-1]: rank
        for rank, failure in sorted(failures.items(), reverse=True)
    }
    causes = "; ".join(
        f"worker {rank}: {line}" for line, rank in sorted(lines.items(), key=lambda item: item[1])
    )
    return f"the workers failed more than {MAX_FAILURES} times, at last {causes}"

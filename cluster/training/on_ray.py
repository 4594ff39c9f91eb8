"""Training with Ray Train workers, the first of which reports to the driver."""

from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from cluster.progress import progress
from cluster.training.ending import WorkersFailedError
from cluster.training.worker import SentRun, only_if, train_in_worker
from shards.config import ConfigError
from shards.progress import OnProgress
from trainers.config import TrainConfig
from trainers.engine.checkpoints import refuse_used_folder

if TYPE_CHECKING:
    from cluster.nodes.session import NodeResources

    # with torch, which the help text does not need
    from trainers.engine.run import TrainingResult
    from trainers.engine.validation import OnValidation

MAX_FAILURES = 3
POLL_SECONDS = 0.5
MESSAGE_SECONDS = 10.0


def train_on_ray(config: TrainConfig) -> "TrainingResult":
    """Train with `num_workers` Ray Train workers, on a GPU each where the cluster has GPUs.

    Raises ConfigError when the cluster has too few resources, WorkersFailedError when the workers
    failed too often.
    """
    from cluster.nodes.session import ray_session
    from trainers.engine.validation import unwatched

    # Why here: a worker cannot tell a used folder from a restart of its own run.
    refuse_used_folder(Path(config.out), resume=config.resume)

    with ray_session(config.address) as nodes, progress("train", "steps") as update:
        require_resources(config.num_workers, nodes)
        return train_with_workers(SentRun.of(config), config.num_workers, update, unwatched)


def train_with_workers(
    run: SentRun, num_workers: int, update: OnProgress, on_validation: "OnValidation"
) -> "TrainingResult":
    """Train on the Ray that this process is connected to, as `train_on_ray` does."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from cluster.nodes.session import live_nodes
    from trainers.engine.run import TrainingResult

    queue = queue_here()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"run": run, "messages": queue},
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=sum(node.num_gpus for node in live_nodes()) >= 1
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=run.options["out"],
            # Why a limit for the controller too: without one, the run waits for ever for a
            # cluster that is busy with other work.
            failure_config=FailureConfig(
                max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES
            ),
        ),
    )

    listener = _Listener(queue, update, on_validation)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise WorkersFailedError(_reason(error)) from error
    finally:
        kind, found = listener.finish()

    if kind == "refused":
        raise ConfigError(found)
    return TrainingResult(**found)


def queue_here() -> Any:
    """A queue of messages, on this process's node: with it on another node, either could die."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


class _Listener:
    """Shows the first worker's progress as it comes, and keeps how it ended."""

    def __init__(self, queue: Any, update: OnProgress, on_validation: "OnValidation") -> None:
        self._queue, self._update, self._on_validation = queue, update, on_validation
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
            elif kind == "validation":
                self._on_validation(values[0])
            else:
                self._end = (kind, values[0])


def _work(values: dict[str, Any]) -> None:
    """Run one Ray Train worker; a worker that is started again resumes."""
    from ray.train import get_context

    say = only_if(
        get_context().get_world_rank() == 0,
        lambda *message: values["messages"].put(message, timeout=MESSAGE_SECONDS),
    )
    try:
        result = train_in_worker(
            values["run"],
            lambda done, total, note="": say("step", done, total, note),
            lambda validated: say("validation", validated),
        )
    except ConfigError as error:
        # Why not raised: every worker raises the same error, and Ray Train would start them again
        # as if they had died.
        say("refused", str(error))
    else:
        say("result", asdict(result))


def require_resources(num_workers: int, nodes: "list[NodeResources]") -> None:
    """Raise ConfigError when the cluster is too small: Ray would wait until it grows."""
    num_gpus, num_cpus = sum(node.num_gpus for node in nodes), sum(node.num_cpus for node in nodes)
    if num_workers > (num_gpus if num_gpus >= 1 else num_cpus):
        raise ConfigError(
            f"--num-workers: got {num_workers}, the cluster has {num_gpus:g} GPUs and {num_cpus:g} "
            "CPUs"
        )


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

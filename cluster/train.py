"""`emostream train`: one process here, or several as Ray Train workers, with the same code underneath.

Under torchrun it is just called once a process. Ray Train places the workers and starts them again, a bounded number of
times, after a death; they go on from the newest complete checkpoint.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.progress import progress
from shards.config import ConfigError, from_mapping, to_mapping
from trainers.settings import TrainConfig

if TYPE_CHECKING:
    from trainers.engine import TrainingResult  # with torch, which the help text does not need

EXIT_UNFINISHED = 4
MAX_FAILURES = 3


def run_train(config: TrainConfig) -> int:
    """Train and say what was reached."""
    os.environ.setdefault("DS_ACCELERATOR", _accelerator())
    try:
        train = train_on_ray if config.num_workers > 1 or config.address else train_here
        result = train(config)
    except OSError as error:
        sys.stderr.write(
            f"emostream train: stopped: {error}\nmake room or restore the files, then run the same command with "
            "--resume: it goes on from the newest complete checkpoint\n"
        )
        return EXIT_UNFINISHED
    reached = ", ".join(f"{name} {value:.3f}" for name, value in result.best.items())
    early = ", stopped early" if result.stopped_early else ""
    sys.stdout.write(
        f"{result.steps} steps{early}; best at step {result.best_step} on validation speakers: {reached}\n"
        f"model in {config.out}/best, numbers in {config.out}/metrics.jsonl, curves in {config.out}/tensorboard\n"
    )
    return 0


def train_here(config: TrainConfig) -> "TrainingResult":
    """In this process (one of several, under torchrun)."""
    from trainers.engine import run_training

    with progress("train", "steps") as update:
        return run_training(config, lambda done, total, note: update(done, total, note=note))


def train_on_ray(config: TrainConfig) -> "TrainingResult":
    """As `num_workers` Ray Train workers, a GPU each where there are GPUs."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from cluster.ray_session import ray_session
    from trainers.engine import read_result

    out = os.path.abspath(config.out)
    with ray_session(config.address) as nodes:
        num_gpus, num_cpus = sum(node.num_gpus for node in nodes), sum(node.num_cpus for node in nodes)
        use_gpu = num_gpus >= 1
        if config.num_workers > (num_gpus if use_gpu else num_cpus):
            raise ConfigError(
                f"--num-workers: got {config.num_workers}, the cluster has {num_gpus:g} GPUs and {num_cpus:g} CPUs"
            )
        trainer = TorchTrainer(
            _work,
            train_loop_config=to_mapping(replace(config, out=out)),
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu),
            run_config=RunConfig(name="ray", storage_path=out, failure_config=FailureConfig(max_failures=MAX_FAILURES)),
        )
        trainer.fit()
    return read_result(Path(out))


def _work(values: dict[str, Any]) -> None:
    """What a Ray Train worker runs; a worker started again resumes."""
    from trainers.engine import run_training

    config = from_mapping(TrainConfig, values, where="options")
    has_checkpoint = os.path.isdir(os.path.join(config.out, "checkpoints"))
    run_training(replace(config, resume=config.resume or has_checkpoint))


def _accelerator() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

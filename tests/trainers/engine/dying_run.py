"""A training process that kills itself with SIGKILL at a given place, as a power cut would.

    python -m tests.trainers.engine.dying_run options.yaml WHERE STEP

`step 10` dies after step 10, which has no checkpoint. `state 8` dies when half of step 8's state is
written, and `rename 8` when all of step 8 is written but not yet visible.

Under torchrun the first rank dies, and torchrun ends the others.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from shards.config_values import from_mapping
from trainers.config import TrainConfig
from trainers.training import run_training


def die() -> None:
    """Send SIGKILL to this process if it is the first rank."""
    if os.environ.get("RANK", "0") == "0":
        os.kill(os.getpid(), signal.SIGKILL)


def main(options: str, place: str, step: int) -> None:
    """Train until the place is reached."""
    unfinished = f".step-{step:08d}.tmp"
    save = torch.save

    def save_half(state: Any, path: Any, *rest: Any, **named: Any) -> None:
        save(state, path, *rest, **named)
        if place == "state" and unfinished in str(path):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if place == "rename" and event == "os.rename" and str(arguments[0]).endswith(unfinished):
            die()

    torch.save = save_half
    sys.addaudithook(watch)
    config = from_mapping(TrainConfig, yaml.safe_load(Path(options).read_text(encoding="utf-8")))
    run_training(config, lambda done, *_: die() if place == "step" and done == step else None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

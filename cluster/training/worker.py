"""A run inside a process that Ray has started: in the driver's folder, and resumed if Ray retries.

A retry cannot be told from a first attempt by Ray's arguments, but by the checkpoints: the driver
has made sure that a folder holds none before a run that is not to be resumed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shards.config_values import from_mapping, to_mapping
from shards.progress import OnProgress
from trainers.config import TrainConfig
from trainers.engine.checkpoints import CHECKPOINTS_NAME

if TYPE_CHECKING:
    from trainers.engine.run import TrainingResult
    from trainers.engine.validation import OnValidation


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRun:
    """A run as it travels to a worker; `folder` is where the driver's relative paths begin."""

    options: dict[str, Any]
    folder: str

    @classmethod
    def of(cls, config: TrainConfig, folder: str | None = None) -> "SentRun":
        """The run of `config`, as this process would do it, or one that has moved to `folder`."""
        options = to_mapping(replace(config, out=os.path.abspath(config.out)))
        return cls(options=options, folder=folder or os.getcwd())

    def config(self) -> TrainConfig:
        """The options here; the process moves to the driver's folder."""
        # Why: relative paths begin in this folder, but Ray has moved to a folder of its own.
        if os.path.isdir(self.folder):
            os.chdir(self.folder)

        config = from_mapping(TrainConfig, self.options, where="options")
        has_checkpoint = os.path.isdir(os.path.join(config.out, CHECKPOINTS_NAME))
        return replace(config, resume=config.resume or has_checkpoint)


def train_in_worker(
    run: SentRun, on_step: OnProgress, on_validation: "OnValidation"
) -> "TrainingResult":
    """Train in this process, which may be one of several that share the run."""
    from trainers.training import run_training

    return run_training(run.config(), on_step, on_validation)


def use_threads(number: int) -> None:
    """Compute with `number` threads, whatever the machine's settings say; 0: leave it."""
    import torch

    if number:
        torch.set_num_threads(number)


def only_if(is_first: bool, tell: Callable[..., None]) -> Callable[..., None]:
    """`tell`, or nothing for a process that does not speak for its run."""
    return tell if is_first else lambda *_: None

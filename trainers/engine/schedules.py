"""What changes from step to step by a formula: the learning rate, and the seed of each batch's
random numbers.

Pure functions of the step or batch number, so a resumed run needs neither a scheduler's nor a
generator's state.
"""

import math

import numpy as np

from trainers.settings.engine import EngineConfig


def rate_at(step: int, num_steps: int, config: EngineConfig) -> float:
    """The learning rate at `step` (from 0) of `num_steps` as a share of its peak."""
    warmup = round(config.warmup_share * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, num_steps - warmup)
    return (
        0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if config.schedule == "cosine"
        else max(0.0, 1.0 - done)
    )


def batch_seed(seed: int, number: int) -> int:
    """The seed of the random numbers of one batch."""
    return int(
        np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64)[0] >> 1
    )

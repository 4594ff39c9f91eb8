"""The learning rate of each step, and the seed of each batch's random numbers.

Both are pure functions of the number of the step or batch. So a resumed run needs neither the state
of a scheduler nor that of a random number generator, and any number of workers draws the same
random numbers.
"""

import math

import numpy as np

from trainers.settings.engine import EngineConfig


def rate_at(step: int, num_steps: int, config: EngineConfig) -> float:
    """The learning rate at `step` (from 0) of `num_steps`, as a share of its peak."""
    # Steps are counted from 1 here, so that the first step already learns and the last step of the
    # rise has the peak rate.
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
    """The seed of the random numbers of batch `number` in a run with `seed`."""
    return int(
        np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64)[0] >> 1
    )

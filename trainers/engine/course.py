"""The learning rate of every step of a run, which may have been given more steps on the way.

A cosine over 20 steps that goes on as a cosine over 40 jumps: from nearly 0 to half of the peak. So
a run with another number of steps is refused unless `engine.extend` says how it goes on. A course
is a list of legs, which every checkpoint keeps: the leg of a step decides its rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shards.config import ConfigError
from trainers.engine.schedules import rate_at
from trainers.settings.engine import EngineConfig

LEAST_CONSTANT_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The steps from `begin` (from 0) up to `end`, and how they go on from those before."""

    begin: int
    end: int
    extend: str | None = None


class Course:
    """The learning rate as a share of its peak."""

    def __init__(self, legs: Sequence[Leg], config: EngineConfig) -> None:
        self.legs, self._config = tuple(legs), config

    def rate(self, step: int) -> float:
        """The rate at `step` (from 0)."""
        number = max((place for place, leg in enumerate(self.legs) if leg.begin <= step), default=0)
        leg = self.legs[number]
        if leg.extend == "constant":
            return Course(self.legs[:number], self._config).rate(leg.begin - 1)

        return rate_at(step - leg.begin, leg.end - leg.begin, self._config)

    def extended(self, reached: int, num_steps: int) -> "Course":
        """The course of a run that resumes after `reached` steps and is to end at `num_steps`.

        Raises ConfigError when this is another end than before and `engine.extend` does not say
        how to go on, or when it says constant and the rate has fallen to nothing.
        """
        last, extend = self.legs[-1], self._config.extend
        if num_steps == last.end:
            return self
        if self._config.schedule == "constant" and self._config.warmup_share == 0:
            # The rate is the same at every step of any run.
            return Course([*self.legs[:-1], replace(last, end=num_steps)], self._config)
        if extend is None:
            raise ConfigError(
                f"resume: got {num_steps} steps, the run was started with {last.end}, and its "
                "learning rate would jump; give the same number, or set engine.extend to rewarm or "
                "constant"
            )

        # A leg that no step has been taken of is replaced.
        kept = [leg for leg in self.legs if leg.begin < reached]
        if not kept:
            return Course([Leg(begin=0, end=num_steps)], self._config)
        if extend == "constant" and self.rate(reached - 1) < LEAST_CONSTANT_RATE:
            raise ConfigError(
                f"engine.extend: got constant, but the learning rate had fallen to "
                f"{self.rate(reached - 1):.1g} of its peak; expected rewarm"
            )
        return Course([*kept, Leg(begin=reached, end=num_steps, extend=extend)], self._config)

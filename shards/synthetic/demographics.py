"""Who the speakers of the synthetic world are: sex, age and background, and what that changes.

A real corpus has groups of very different size, and its raters read some people better than others.
Here both are numbers, so that an unfairness has a known size; by default groups differ in size
only, and a fair measure finds nothing.

Groups are dealt out by quotas (a Kronecker sequence: multiples of an irrational number, less their
whole parts), so that any run of speakers has the groups in their shares, within a few speakers.
Independent draws lost: of 40 test speakers, one world in 28 would have had none of a group of 8 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.emotions import EMOTIONS, NUM_EMOTIONS

_DEMOGRAPHICS_STREAM = 5
# For sex, background and age. Square roots are worst approximated by fractions, so that multiples
# spread evenly; those of different primes do so independently of each other.
_STEPS = np.sqrt([2.0, 5.0, 3.0]) / [1.0, 2.0, 1.0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """One value of a demographic field, and what sets its speakers apart."""

    name: str = option(help="the value in a sample's json, for example female")
    share: float = option(
        help="size relative to the other values of the field; shares need not sum to 1"
    )
    legibility: float = option(
        help="factor on the evidence that raters get from these speakers; below 1 they are harder "
        "to read, though they show as much as others",
        default=1.0,
    )
    prior: tuple[float, ...] = option(
        help="by how many log-odds these speakers feel each emotion more often, in the order "
        f"{', '.join(EMOTIONS)}; none: as often as others",
        default=(),
    )

    def __post_init__(self) -> None:
        require_positive(self, "share")
        require_at_least(self, 0, "legibility")

        if len(self.prior) not in (0, NUM_EMOTIONS):
            raise ConfigError(
                f"prior: got {len(self.prior)} numbers, expected none or {NUM_EMOTIONS}, one for "
                "each emotion"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemographicsConfig:
    """Groups of speakers, in the proportions of CREMA-D's actors; by default they do not differ."""

    sex: tuple[Subgroup, ...] = option(
        help="values of demographics.sex. Where there are as many as voice types, the first speaks "
        "with the first type, and so on",
        default=(Subgroup(name="male", share=0.53), Subgroup(name="female", share=0.47)),
    )
    background: tuple[Subgroup, ...] = option(
        help="values of demographics.background",
        default=(
            Subgroup(name="north", share=0.67),
            Subgroup(name="south", share=0.24),
            Subgroup(name="east", share=0.08),
            Subgroup(name="west", share=0.01),
        ),
    )
    min_age: int = option(help="the youngest speaker, in years", default=20)
    max_age: int = option(
        help="the oldest speaker, in years; the young are more numerous", default=74
    )
    legibility_by_decade: float = option(
        help="factor on legibility for every ten years above min_age", default=1.0
    )

    def __post_init__(self) -> None:
        require_positive(self, "legibility_by_decade")

        if not 0 <= self.min_age <= self.max_age:
            raise ConfigError(
                f"min_age, max_age: got {self.min_age}, {self.max_age}, expected "
                "0 <= min_age <= max_age"
            )

        for field, groups in (("sex", self.sex), ("background", self.background)):
            names = [group.name for group in groups]
            if not names or len(names) != len(set(names)):
                raise ConfigError(
                    f"{field}: got {', '.join(names) or 'no groups'}, expected at least one group, "
                    "with names that differ"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Demographics:
    """The groups of one speaker; `sex_rank` is the position of `sex` in the configuration."""

    sex: Subgroup
    sex_rank: int
    background: Subgroup
    age: int
    legibility: float

    @property
    def prior(self) -> NDArray[np.float64]:
        """Log-odds [emotion] that are added to the speaker's prior."""
        shifts = [group.prior or (0.0,) * NUM_EMOTIONS for group in (self.sex, self.background)]
        total: NDArray[np.float64] = np.sum(shifts, axis=0)
        return total

    def as_json(self) -> dict[str, object]:
        """What a sample's json says under `demographics`."""
        return {"sex": self.sex.name, "age": self.age, "background": self.background.name}


def deal_demographics(config: DemographicsConfig, seed: int, index: int) -> Demographics:
    """The groups of the speaker of number `index` in the world of `seed`.

    Ages lie between the youngest and the oldest as the square of an even spread does: a third of
    the way from the youngest on average.
    """
    start = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_DEMOGRAPHICS_STREAM,)))
    sex_place, background_place, age_place = (start.random(len(_STEPS)) + index * _STEPS) % 1.0

    sex_rank = _pick(config.sex, sex_place)
    sex = config.sex[sex_rank]
    background = config.background[_pick(config.background, background_place)]
    age = config.min_age + int(age_place**2 * (config.max_age - config.min_age + 1))
    aging = config.legibility_by_decade ** ((age - config.min_age) / 10)

    return Demographics(
        sex=sex,
        sex_rank=sex_rank,
        background=background,
        age=age,
        legibility=sex.legibility * background.legibility * aging,
    )


def _pick(groups: Sequence[Subgroup], place: float) -> int:
    """The position of the group in whose part of the unit interval `place` lies."""
    ends = np.cumsum([group.share for group in groups])
    return int(np.searchsorted(ends[:-1] / ends[-1], place, side="right"))

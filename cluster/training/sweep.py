"""`emostream train --sweep FILE`: which options are tried, with which values, and how many times.

    options:
      engine.learning_rate: {loguniform: [1e-5, 1e-3]}
      model.head: {grid: [linear, interpreter]}
    trials: 8
    scheduler: asha
    seed: 0

Every value that a file can lead to is put into the options of the run before anything starts, at
least the ends of a range, so that a wrong name or value is refused at once. Ray Tune draws the
values and decides which trials go on; nothing of that is ours.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from shards.config import ConfigError, option, require_positive
from shards.config_values import convert, from_mapping, to_mapping
from shards.storage.files import read_bytes
from trainers.config import TrainConfig

MAX_FILE_BYTES = 1 << 20
RANGES = ("uniform", "loguniform", "randint")
LISTS = ("grid", "choice")
# Options that say where runs go and not how they learn.
NOT_TRIED = ("recipe", "shards", "out", "resume", "folds", "sweep", "num_workers", "address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values of one option: `numbers` are the ends of a range or all values of a list."""

    kind: str
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """What a sweep's file says."""

    options: dict[str, dict[str, Any]] = option(
        help="Options to try, by their full names, each with its values: {uniform: [low, high]}, "
        "{loguniform: [low, high]}, {randint: [low, high]} (high is left out), {choice: [a, b]} or "
        "{grid: [a, b]}."
    )
    trials: int = option(
        default=1, help="Number of draws; each is tried with every combination of the grids."
    )
    scheduler: Literal["asha", "none"] = option(
        default="asha",
        help="asha: at the validations 1, 4, 16 and so on, only trials among the best quarter of "
        "those that came so far go on; none: all go on.",
    )
    min_validations: int = option(
        default=1, help="Number of validations that every trial is given before it can be ended."
    )
    seed: int = option(default=0, help="Seed of the draws.")

    def __post_init__(self) -> None:
        require_positive(self, "trials", "min_validations")
        if not self.options:
            raise ConfigError("options: got none, expected at least one option to try")
        self.values()

    def values(self) -> dict[str, Values]:
        """The values of each option. Raises ConfigError when they are none of the known forms."""
        return {name: _values(name, given) for name, given in self.options.items()}

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        grids = [len(one.items) for one in self.values().values() if one.kind == "grid"]
        return self.trials * math.prod(grids)


def read_sweep(path: str, config: TrainConfig) -> SweepConfig:
    """Read a sweep's file.

    Raises ConfigError for a file that is none, for an option that `config` does not have, and for a
    value that it cannot have.
    """
    try:
        loaded = yaml.safe_load(read_bytes(path, max_bytes=MAX_FILE_BYTES))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--sweep {path}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"--sweep {path}: got {type(loaded).__name__}, expected a mapping")

    sweep = from_mapping(SweepConfig, loaded, where=f"--sweep {path}")
    for name, values in sweep.values().items():
        for value in _probed(values):
            try:
                with_options(config, {name: value}, out=config.out)
            except ConfigError as error:
                raise ConfigError(f"--sweep {path}: {name}={value}: {error}") from error

    return sweep


def with_options(config: TrainConfig, chosen: Mapping[str, Any], *, out: str) -> TrainConfig:
    """The run of a trial: `config` with the options `chosen`, by full names, in the folder `out`.

    Raises ConfigError when the options cannot be used together.
    """
    values = copy.deepcopy(to_mapping(config))
    for name, value in chosen.items():
        *groups, last = name.split(".")
        place = values
        for group in groups:
            inner = place.get(group)
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: {group} is not a group of options")
            place = inner
        place[last] = value.item() if hasattr(value, "item") else value

    values |= {"out": out, "sweep": None, "resume": False, "address": None}
    return from_mapping(TrainConfig, values, where="options")


def as_read(config: TrainConfig, name: str, value: Any) -> Any:
    """`value` of the option `name` in its own type: 1e-4, which is text to YAML, is a number."""
    run = with_options(config, {name: value}, out=config.out)
    first, *rest = name.split(".")
    found: Any = run.recipe_config() if first == "model" else getattr(run, first)
    for part in rest:
        found = getattr(found, part)
    return list(found) if isinstance(found, tuple) else found


def _values(name: str, given: Mapping[str, Any]) -> Values:
    if name in NOT_TRIED:
        raise ConfigError(f"options.{name}: got an option that says where runs go or what they are")
    if len(given) != 1 or next(iter(given)) not in RANGES + LISTS:
        raise ConfigError(
            f"options.{name}: got {dict(given)}, expected one of {', '.join(RANGES + LISTS)} with "
            "a list, such as {uniform: [0, 1]}"
        )

    kind, items = next(iter(given.items()))
    if not isinstance(items, list) or not items:
        raise ConfigError(f"options.{name}.{kind}: got {items!r}, expected a list")
    if kind in LISTS:
        return Values(kind=kind, items=tuple(items))

    # YAML reads 1e-5 as text, because its numbers have a point.
    number = int if kind == "randint" else float
    ends = tuple(convert(number, item, where=f"options.{name}.{kind}") for item in items)
    if len(ends) != 2 or not ends[0] < ends[1] or (kind == "loguniform" and ends[0] <= 0):
        raise ConfigError(
            f"options.{name}.{kind}: got {items}, expected [low, high]"
            f"{' above 0' if kind == 'loguniform' else ''}"
        )
    return Values(kind=kind, items=ends)


def _probed(values: Values) -> Iterator[Any]:
    """All values of a list, and the ends of a range."""
    if values.kind == "randint":
        low, high = values.items
        yield from {low, high - 1}
    else:
        yield from values.items

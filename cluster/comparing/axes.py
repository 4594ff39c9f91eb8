"""The axes of a table of runs: which options make its rows or its columns, and where a run lies.

A key is the dotted name of an option, such as `data.num_utterances`, as `--print-config` shows it.
What is not one plain option of the run has a key of its own:

- `encoder.checkpoint`: what training started from. An encoder that another run exported is called
  by that run's recipe and options, not by its folder: the folders of three seeds are one start.
- `name`: the one that NAME=FOLDER gave.
- `shards` and `evaluate.shards`: the corpus that was trained on, and that was measured.
- `class`: the classes; the figure is then the F1 of each.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from cluster.comparing.methods import (
    differing_options,
    method_name,
    short_name,
    shown_value,
)
from cluster.comparing.runs import Options, Run
from shards.config import ConfigError

CLASS, NAME, START = "class", "name", "encoder.checkpoint"
ADAPTED = "encoder.from."
# Seeds make no place in a table: runs that differ in nothing else are one cell.
RESAMPLING = "data.subset_seed"
# Keys whose None means everything there is.
_NUMBERS = ("data.num_utterances", "data.num_speakers")
_PATHS = {"shards": "data.corpus", "evaluate.shards": "evaluate.corpus"}

Place = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """The keys of one axis, and what each place on it is called, in order."""

    keys: tuple[str, ...]
    labels: Mapping[Place, str]

    def place(self, run: Run) -> Place:
        """Where the run lies."""
        return _place(run, self.keys)

    @property
    def numbers(self) -> tuple[float | None, ...] | None:
        """The places as numbers, where there is one key and it is one; None stands for all."""
        if len(self.keys) != 1:
            return None
        values = [place[0] for place in self.labels]
        is_numeric = all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in values
        )
        known = sum(value is not None for value in values)
        return tuple(values) if is_numeric and known else None  # type: ignore[arg-type]


def make_axis(option: str, keys: Sequence[str], runs: Sequence[Run]) -> Axis:
    """The axis of `keys` with the places of all runs.

    Numbers are in order, with None (all) last; other places come as the runs do. `option` is the
    option that gave the keys. Raises ConfigError for a key that no run has.
    """
    for key in keys:
        if not any(_has(run, key) for run in runs):
            raise ConfigError(f"--{option}: no run has {key}; {_remedy(key, runs)}")

    places = list(dict.fromkeys(_place(run, keys) for run in runs))
    axis = Axis(tuple(keys), dict.fromkeys(places, ""))
    if axis.numbers is not None:
        places.sort(key=lambda place: (place[0] is None, place[0] or 0))

    return Axis(tuple(keys), dict(zip(places, _labels(keys, places), strict=True)))


def by_class(runs: Sequence[Run]) -> list[Run]:
    """Each run once for every class, with the F1 of this class as its only figure."""
    found = [
        replace(run, options={**run.options, CLASS: name}, figures={"F1": f1})
        for run in runs
        for name, f1 in run.class_f1.items()
    ]
    if not found:
        raise ConfigError(f"--columns {CLASS}: no run has classes; leave it out")
    return found


def other_options(options: Options, axes: Sequence[Axis]) -> dict[str, Any]:
    """The options that neither an axis nor a seed stands for."""
    keys = {key for axis in axes for key in axis.keys}
    keys |= {_PATHS[key] for key in keys & _PATHS.keys()}
    is_start_given = START in keys
    return {
        key: value
        for key, value in options.items()
        if key not in keys
        and key != RESAMPLING
        and not (is_start_given and key.startswith(ADAPTED))
    }


def _has(run: Run, key: str) -> bool:
    if key == NAME:
        return run.name is not None
    return key == START or key in run.options or key in run.paths


def _place(run: Run, keys: Sequence[str]) -> Place:
    return tuple(_value(run, key) for key in keys)


def _value(run: Run, key: str) -> Hashable:
    if key == NAME:
        return run.name
    if key == START and f"{ADAPTED}recipe" in run.options:
        return _start(run)
    if key in run.paths:
        return run.paths[key]

    value = run.options.get(key)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class _Start:
    """An encoder that another run exported: the options of that run, and a text that tells them."""

    identity: str
    options: Options = field(compare=False)


def _start(run: Run) -> _Start:
    options = {
        name.removeprefix(ADAPTED): value
        for name, value in run.options.items()
        if name.startswith(ADAPTED)
    }
    return _Start(json.dumps(options, sort_keys=True, default=str), options)


def _labels(keys: Sequence[str], places: Sequence[Place]) -> list[str]:
    """What the places are called; with several keys, each value stands behind its key's name."""
    if not keys:
        return ["mean"] * len(places)
    columns = [_column(key, [place[at] for place in places]) for at, key in enumerate(keys)]
    if len(keys) == 1:
        return columns[0]

    names = [short_name(key.removeprefix(ADAPTED)) for key in keys]
    return [
        ", ".join(f"{name}={word}" for name, word in zip(names, words, strict=True))
        for words in zip(*columns, strict=True)
    ]


def _column(key: str, values: Sequence[Hashable]) -> list[str]:
    """What the values of one key are called."""
    if key in _PATHS:
        return _paths([str(value) for value in values])

    differing = differing_options([one.options for one in values if isinstance(one, _Start)])
    return [
        method_name(value.options, differing) if isinstance(value, _Start) else _shown(key, value)
        for value in values
    ]


def _shown(key: str, value: Hashable) -> str:
    if value is None:
        return "all" if key in _NUMBERS else "none"
    return shown_value(value)


def _paths(patterns: Sequence[str]) -> list[str]:
    """The names of the folders of shards, or the whole patterns where two have one name."""
    names = [PurePosixPath(pattern).parent.name or pattern for pattern in patterns]
    of_names = {(name, pattern) for name, pattern in zip(names, patterns, strict=True)}
    return list(names) if len(of_names) == len(set(names)) else list(patterns)


def _remedy(key: str, runs: Sequence[Run]) -> str:
    """What to give in place of an unknown key."""
    known = {name for run in runs for name in (*run.options, *run.paths)}
    if near := get_close_matches(key, sorted(known), n=3):
        return f"did you mean {' or '.join(near)}?"

    differing = sorted(differing_options([run.options for run in runs]))
    return f"the runs differ in {', '.join(differing) or 'nothing but seeds'}"

"""What a sweep leaves: the table of its trials, and the options of the best one.

A trial is as good as its best validation, since that is the model which its run keeps as `best`.
Nothing here looks at the test split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from shards.config_values import to_mapping
from shards.storage.files import atomic_write
from trainers.config import TrainConfig

TABLE_NAME, BEST_NAME = "trials.parquet", "best.yaml"
SHOWN_TRIALS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial.

    done: trained to its end; ended: the scheduler ended it; refused: its options cannot be used
    together; failed: a disk or a machine failed; unfinished: the sweep was interrupted.
    `objective` is the best validation's figure, found at `best_step`, and `figures` are all of that
    validation; None and empty before the first validation.
    """

    name: str
    state: str
    options: Mapping[str, Any]
    objective: float | None = None
    best_step: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials from the best to the worst, those without a validation last."""
    return sorted(
        trials, key=lambda one: -math.inf if one.objective is None else one.objective, reverse=True
    )


def write_table(out: Path, trials: Sequence[Trial]) -> None:
    """Write the table of all trials, the best one first."""
    names = list(dict.fromkeys(name for one in trials for name in one.figures))
    rows = [
        {
            "trial": one.name,
            "state": one.state,
            **{name: _cell(value) for name, value in one.options.items()},
            "objective": one.objective,
            "best_step": one.best_step,
            **{f"validation_{name}": one.figures.get(name) for name in names},
            "reason": one.reason,
        }
        for one in ranked(trials)
    ]
    with atomic_write(str(out / TABLE_NAME)) as stream:
        pq.write_table(pa.Table.from_pylist(rows), stream)


def write_best(out: Path, config: TrainConfig, best: Trial) -> None:
    """Write the options of the best trial, as `--config` reads them, without a folder."""
    values = to_mapping(config)
    for name in ("out", "resume", "sweep", "address"):
        del values[name]

    comment = (
        f"# The best of the trials in {TABLE_NAME}: {best.name}, {best.objective:.4f} in "
        f"validation at step {best.best_step}.\n# Train it with `emostream train --config FILE "
        "--out FOLDER`.\n"
    )
    with atomic_write(str(out / BEST_NAME)) as stream:
        stream.write((comment + yaml.safe_dump(values, sort_keys=False)).encode())


def shown(trials: Sequence[Trial]) -> str:
    """The table as text."""
    options = list(trials[0].options)
    rows = [["trial", "state", "validation", "step", *options]]
    for one in ranked(trials)[:SHOWN_TRIALS]:
        figure = "" if one.objective is None else f"{one.objective:.4f}"
        step = "" if one.best_step is None else str(one.best_step)
        rows.append([one.name, one.state, figure, step, *map(_short, one.options.values())])

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if len(trials) > SHOWN_TRIALS:
        lines.append(f"and {len(trials) - SHOWN_TRIALS} more in {TABLE_NAME}")
    return "\n".join([*lines, ""])


def _cell(value: Any) -> Any:
    """A column of lists would have to have one type, so lists are text."""
    return str(value) if isinstance(value, list | dict) else value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

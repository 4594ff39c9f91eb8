"""Runs as a table of two axes, as the papers print them: one difference down, another one across.

Tables I, II, IV, V and VI of multimodal-adaptive-pretraining are this table with other axes. A cell
holds runs that differ in their seeds alone, be it the seed of the training or the one that drew the
labels (`data.subset_seed`). A cell that mixes anything else is refused by the name of the option:
an average over two methods would look like one.

A row is tested against the baseline's within each column, by a paired t-test over the seeds that
both have.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.comparing.axes import RESAMPLING, Axis, other_options
from cluster.comparing.methods import differing_options, shown_value
from cluster.comparing.runs import Run
from shards.config import ConfigError

if TYPE_CHECKING:
    # Why not at run time: it imports scipy, which the help text does not need.
    from trainers.evaluation.comparison import Cell

Repeat = tuple[int, int]  # the seed of the training, and of the drawn labels


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotCell:
    """One figure of one cell.

    `gain` is the mean difference to the baseline over the seeds that both have, and `gain_interval`
    its 95 % interval by the paired t-test; None where there are no such seeds, or fewer than three.
    """

    cell: "Cell"
    num_runs: int
    gain: float | None
    gain_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """A finished table: figure -> row -> column -> cell, by labels; empty cells are not there.

    `also_differing` are options that differ between rows although no axis names them.
    """

    rows: Axis
    columns: Axis
    baseline: str
    figures: Mapping[str, Mapping[str, Mapping[str, PivotCell]]]
    also_differing: tuple[str, ...]


def make_pivot(
    runs: Sequence[Run], rows: Axis, columns: Axis, figures: Sequence[str], baseline: str | None
) -> Pivot:
    """Lay out runs. The first row is the baseline where `baseline` names none.

    Raises ConfigError for a baseline that is no row, and for a cell that mixes options or has a
    seed twice.
    """
    labels = list(rows.labels.values())
    baseline = labels[0] if baseline is None else baseline
    if baseline not in labels:
        raise ConfigError(f"--baseline {baseline}: expected one of the rows: {', '.join(labels)}")

    placed: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        placed[columns.labels[columns.place(run)]][rows.labels[rows.place(run)]].append(run)

    table: dict[str, dict[str, dict[str, PivotCell]]] = {
        figure: {row: {} for row in labels} for figure in figures
    }
    for column in columns.labels.values():
        cells = {row: _repeats(mine, (rows, columns)) for row, mine in placed[column].items()}
        for figure in figures:
            for row, cell in _cells_of_column(cells, figure, baseline).items():
                table[figure][row][column] = cell

    return Pivot(
        rows=rows,
        columns=columns,
        baseline=baseline,
        figures=table,
        also_differing=_also_differing(placed, (rows, columns)),
    )


def _repeats(runs: Sequence[Run], axes: Sequence[Axis]) -> dict[Repeat, Run]:
    """The runs of one cell by their seeds."""
    others = [other_options(run.options, axes) for run in runs]
    mixed = sorted(differing_options(others))
    if any(run.options.get("data.num_utterances") for run in runs):
        mixed = [key for key in mixed if key != "data.corpus"]  # another draw is another digest

    if mixed:
        shown = " and ".join(shown_value(one.get(mixed[0])) for one in (others[0], others[-1]))
        raise ConfigError(
            f"--rows, --columns: runs of one cell differ in {', '.join(mixed)} ({mixed[0]} is, for "
            f"example, {shown}), expected them to differ in seeds alone; add it to --rows or "
            "--columns, or leave some runs out"
        )

    found: dict[Repeat, Run] = {}
    for run in runs:
        repeat = (run.seed, int(run.options.get(RESAMPLING, 0)))
        if repeat in found:
            raise ConfigError(
                f"--runs: a cell has two runs with engine.seed {repeat[0]} and {RESAMPLING} "
                f"{repeat[1]}, expected one of each; leave one out"
            )
        found[repeat] = run
    return found


def _cells_of_column(
    cells: Mapping[str, Mapping[Repeat, Run]], figure: str, baseline: str
) -> dict[str, PivotCell]:
    from trainers.evaluation.comparison import compare, paired_gain

    # Repeats are numbered over the whole column, so that equal ones meet.
    numbers = {
        one: at for at, one in enumerate(sorted({one for row in cells.values() for one in row}))
    }
    values = {
        row: {numbers[one]: run.figures for one, run in repeats.items() if figure in run.figures}
        for row, repeats in cells.items()
    }
    values = {row: mine for row, mine in values.items() if mine}
    compared = compare(values, baseline, [figure])

    found = {}
    for row, mine in values.items():
        gain = None if row == baseline else paired_gain(mine, values.get(baseline, {}), figure)
        found[row] = PivotCell(
            cell=compared[row][figure],
            num_runs=len(mine),
            gain=None if gain is None else gain.mean,
            gain_interval=None if gain is None else gain.interval,
        )
    return found


def _also_differing(
    placed: Mapping[str, Mapping[str, Sequence[Run]]], axes: Sequence[Axis]
) -> tuple[str, ...]:
    """Options that no axis names, and in which the rows of a column differ all the same."""
    found: set[str] = set()
    for cells in placed.values():
        found |= differing_options(
            [other_options(run.options, axes) for runs in cells.values() for run in runs]
        )
    return tuple(sorted(found - {"data.corpus"}))


def document(pivot: Pivot) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "rows": list(pivot.rows.keys),
        "columns": list(pivot.columns.keys),
        "baseline": pivot.baseline,
        "also_differing": list(pivot.also_differing),
        "figures": {
            figure: {
                row: {column: _cell_document(one) for column, one in cells.items()}
                for row, cells in table.items()
            }
            for figure, table in pivot.figures.items()
        },
    }


def _cell_document(one: PivotCell) -> dict[str, Any]:
    return {
        "mean": one.cell.mean,
        "std": one.cell.std,
        "p": one.cell.p,
        "runs": one.num_runs,
        "gain": one.gain,
        "gain_interval": None if one.gain_interval is None else list(one.gain_interval),
    }

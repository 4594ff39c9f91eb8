"""A table of two axes as text: one for each figure, with what its stars and signs mean."""

import sys
from collections.abc import Sequence

from cluster.comparing.pivot import Pivot, PivotCell
from cluster.comparing.table import scale_of

_GAP = 2


def print_pivot(pivot: Pivot) -> None:
    """Print each figure of the table, and what it rests on."""
    scale, digits = scale_of(tuple(pivot.figures))
    for figure in pivot.figures:
        _print_figure(pivot, figure, scale, digits)

    numbers = {
        one.num_runs
        for table in pivot.figures.values()
        for cells in table.values()
        for one in cells.values()
    }
    runs = " to ".join(str(number) for number in sorted({min(numbers), max(numbers)}))
    sys.stdout.write(
        f"{'percent; ' if scale == 100 else ''}{runs} run{'' if numbers == {1} else 's'} a cell; ± "
        f"over seeds; * paired t-test over seeds against {pivot.baseline}, p < .05\n"
    )
    if pivot.also_differing:
        sys.stdout.write(
            f"rows of a column differ in {', '.join(pivot.also_differing)} too, which is not named "
            "in --rows\n"
        )


def _print_figure(pivot: Pivot, figure: str, scale: int, digits: int) -> None:
    columns = list(pivot.columns.labels.values())
    title = f"{figure} by {', '.join(pivot.columns.keys)}" if pivot.columns.keys else figure
    lines = [[title, *columns]]
    for row, cells in pivot.figures[figure].items():
        shown = [_shown(cells.get(column), scale, digits) for column in columns]
        lines.append([row, *shown])

    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    sys.stdout.write("\n".join(_aligned(line, widths) for line in lines) + "\n\n")


def _shown(one: PivotCell | None, scale: int, digits: int) -> str:
    if one is None:
        return "-"

    spread = "" if one.cell.std is None else f" ± {scale * one.cell.std:.{digits}f}"
    star = "*" if one.cell.is_significant else " "
    return f"{scale * one.cell.mean:.{digits}f}{spread}{star}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    rest = [text.rjust(width + _GAP) for text, width in zip(line[1:], widths[1:], strict=True)]
    return "".join([first, *rest]).rstrip()

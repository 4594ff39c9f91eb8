"""The intervals over speakers of compared methods, and of their differences to the baseline."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Why not at run time: it imports scikit-learn, which the help text does not need.
    from trainers.evaluation.resampled import ResampledRun

# Method -> the resampled evaluations of its runs.
Resampled = Mapping[str, "Sequence[ResampledRun]"]
Intervals = dict[str, dict[str, dict[str, Any]]]


def intervals_of(
    methods: Resampled, means: Mapping[str, Mapping[str, Any]], baseline: str
) -> Intervals:
    """Method -> figure -> `interval`, `difference` and `difference_interval`.

    `means` are the cells of the table. An interval that cannot be known is None: with a single
    speaker, or where methods were measured on different speakers.
    """
    from trainers.evaluation.resampled import difference_interval, interval

    found: Intervals = {}
    for method, runs in methods.items():
        figures = set.intersection(*(set(run.figures) for run in runs)) if runs else set()
        found[method] = {
            figure: {
                "interval": interval(runs, figure),
                "difference": cell.mean - means[baseline][figure].mean,
                "difference_interval": (
                    difference_interval(runs, methods[baseline], figure)
                    if methods[baseline]
                    else None
                ),
            }
            for figure, cell in means[method].items()
            if figure in figures
        }

    return found


def print_intervals(
    intervals: Intervals,
    means: Mapping[str, Mapping[str, Any]],
    baseline: str,
    scale: int,
    digits: int,
) -> None:
    """Print a line for each figure of each method."""
    width = max(len(method) for method in intervals)
    sys.stdout.write(f"95 % over speakers, and the difference to {baseline}, paired by speaker:\n")

    for method, figures in intervals.items():
        for figure, one in figures.items():
            mean = f"{scale * means[method][figure].mean:.{digits}f}"
            line = f"{method:{width}s}  {figure:16s} {mean}{_ends(one['interval'], scale, digits)}"
            if method != baseline:
                difference = f"{scale * one['difference']:+.{digits}f}"
                line += f"  {difference}{_ends(one['difference_interval'], scale, digits)}"
            sys.stdout.write(f"{line.rstrip()}\n")


def _ends(ends: Sequence[float] | None, scale: int, digits: int) -> str:
    if ends is None:
        return ""
    return f" ({scale * ends[0]:.{digits}f} to {scale * ends[1]:.{digits}f})"

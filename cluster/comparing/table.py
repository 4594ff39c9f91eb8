"""The table of methods: a line each, a column for each figure."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_table(
    table: Mapping[str, Mapping[str, Any]],
    methods: Mapping[str, Mapping[int, Any]],
    figures: Sequence[str],
    base: str,
) -> None:
    width = max(len(method) for method in table)
    sys.stdout.write(
        f"{'method':{width}s}{'seeds':>7s}" + "".join(f"{name:>20s}" for name in figures) + "\n"
    )

    scale, digits = scale_of(figures)
    for method, cells in table.items():
        row = "".join(
            f"{scale * cells[name].mean:.{digits}f}{_spread(scale, cells[name].std, digits)}"
            f"{'*' if cells[name].is_significant else ' '}".rjust(20)
            for name in figures
        )
        sys.stdout.write(f"{method:{width}s}{len(methods[method]):7d}{row}\n")
    sys.stdout.write(
        f"{'percent; ' if scale == 100 else ''}± over seeds; * paired t-test over seeds against "
        f"{base}, p < .05; NAME=FOLDER in --runs gives a method another name\n"
    )


def scale_of(figures: Sequence[str]) -> tuple[int, int]:
    """Return the factor and the decimal places of figures: percent, or CCC and ratings as is."""
    is_share = not any("CCC" in name or name == "Brier" for name in figures)
    return (100, 1) if is_share else (1, 3)


def _spread(scale: int, std: float | None, digits: int) -> str:
    return "" if std is None else f" ± {scale * std:.{digits}f}"

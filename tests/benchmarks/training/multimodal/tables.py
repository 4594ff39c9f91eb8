"""The tables of the multimodal benchmark: one line a method, one column a number of labels."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import TextIO

from tests.benchmarks.training.multimodal.cells import F1, Cell
from tests.benchmarks.training.personalization_cells import Result
from tests.benchmarks.training.personalization_tables import Speaker, difference
from tests.benchmarks.training.pretraining_cells import of_setting

Found = Mapping[Cell, Result]


def method_table(
    found: Found, baseline: str, title: str, out: TextIO
) -> dict[str, dict[str, dict[str, object]]]:
    """Write accuracies in percent, each with its difference to the baseline; return them.

    The difference is over speakers, whose accuracies are averaged over seeds, with its interval and
    p (`difference`).
    """
    if not found:
        return {}

    settings = list(
        dict.fromkeys(
            name for result in found.values() for name in result.figures if not name.endswith(F1)
        )
    )
    out.write(f"\n{title}; differences to {baseline}\n")
    rows: dict[str, dict[str, dict[str, object]]] = {}
    for name in dict.fromkeys(cell.name for cell in found):
        mine = [result for cell, result in found.items() if cell.name == name]
        rows[name] = {}
        for setting in settings:
            mean, f1 = (
                statistics.mean(result.figures[name] for result in mine)
                for name in (setting, setting + F1)
            )
            gain = difference(
                _per_speaker(found, name, setting), _per_speaker(found, baseline, setting)
            )
            line = f"{name:24s} {setting:>5s} labels {mean:5.1f} F1 {f1:5.1f} ({len(mine)} runs)"
            out.write(line + ("" if gain is None else f"  {gain}") + "\n")
            rows[name][setting] = {"accuracy": mean, "macro_f1": f1}
            if gain is not None:
                rows[name][setting] |= {
                    "gain": gain.mean,
                    "interval": [gain.low, gain.high],
                    "p": gain.p,
                }
    return rows


def figure_table(found: Found, title: str, out: TextIO) -> dict[str, dict[str, float]]:
    """Write every figure of every cell, and return them."""
    rows: dict[str, dict[str, float]] = {}
    for cell, result in found.items():
        out.write(f"\n{title}: {cell.name}, {cell.corpus}\n")
        for name, value in result.figures.items():
            out.write(f"  {name:60s} {value:10.1f}\n")
        rows[f"{cell.name}, {cell.corpus}"] = dict(result.figures)
    return rows


def _per_speaker(found: Found, name: str, setting: str) -> dict[Speaker, float]:
    """Each speaker's accuracy, averaged over seeds, which test the same speakers."""
    values: dict[Speaker, list[float]] = defaultdict(list)
    for cell, result in found.items():
        if cell.name == name:
            for speaker, accuracy in of_setting(result.speakers, setting).items():
                values[cell.corpus, speaker].append(accuracy)
    return {speaker: statistics.mean(mine) for speaker, mine in values.items()}

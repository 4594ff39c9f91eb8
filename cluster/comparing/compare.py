"""`emostream compare`: evaluated runs as the papers' tables, with significance and the gap."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.comparing.gaps import print_gaps
from cluster.comparing.intervals import intervals_of, print_intervals
from cluster.comparing.methods import baseline_of, by_method, runs_by_method
from cluster.comparing.runs import Run, read_run
from cluster.comparing.table import print_table, scale_of
from shards.config import ConfigError, option
from shards.storage.documents import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Options of `emostream compare`."""

    runs: tuple[str, ...] = option(
        is_paths=True,
        help="Evaluation folders, as `emostream evaluate` writes them, or NAME=FOLDER.",
    )
    out: str = option(help="JSON file for the table.")
    baseline: str = option(
        default="finetune",
        help="Method that the others are tested against: its name in the table, or its recipe if "
        "there is one method of it.",
    )


def run_compare(config: CompareConfig) -> int:
    """Print the table, and write it to `out`."""
    from trainers.evaluation.comparison import compare

    runs = [read_run(folder) for folder in config.runs]
    figures = _shared_figures(runs)
    methods = by_method(runs)
    baseline = baseline_of(config.baseline, methods)

    table = compare(methods, baseline, figures)
    shown = [name for name in figures if " std" not in name]
    print_table(table, methods, shown, baseline)

    resampled = {
        method: [run.resampled for run in by_seed.values() if run.resampled is not None]
        for method, by_seed in runs_by_method(runs).items()
    }
    intervals = intervals_of(resampled, table, baseline)
    print_intervals(intervals, table, baseline, *scale_of(figures))

    document: dict[str, Any] = {
        "baseline": baseline,
        "methods": {
            method: {
                name: asdict(cell) | intervals[method].get(name, {}) for name, cell in cells.items()
            }
            for method, cells in table.items()
        },
        "personalisation_gap": print_gaps(runs, shown),
    }
    write_json(config.out, document)
    return 0


def _shared_figures(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of the figures that all runs have.

    Raises ConfigError when the runs are of several kinds, which have no figure in common.
    """
    kinds = {tuple(run.figures) for run in runs}
    shared = [name for name in runs[0].figures if all(name in kind for kind in kinds)]
    if not shared:
        raise ConfigError(
            f"--runs: got {' and '.join(', '.join(kind) for kind in sorted(kinds))}; expected runs "
            "that predict the same classes or values"
        )
    return tuple(shared)

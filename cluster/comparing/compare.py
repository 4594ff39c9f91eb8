"""`emostream compare`: evaluated runs as the papers' tables, with significance and the gap."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.comparing.axes import CLASS, by_class, make_axis
from cluster.comparing.gaps import print_gaps
from cluster.comparing.intervals import intervals_of, print_intervals
from cluster.comparing.methods import baseline_of, by_method, runs_by_method
from cluster.comparing.picture import draw_gains
from cluster.comparing.pivot import document, make_pivot
from cluster.comparing.pivot_table import print_pivot
from cluster.comparing.runs import Run, read_run
from cluster.comparing.table import print_table, scale_of
from shards.config import ConfigError, option
from shards.storage.documents import write_json
from shards.storage.files import atomic_write

DEFAULT_BASELINE = "finetune"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Options of `emostream compare`."""

    runs: tuple[str, ...] = option(
        is_paths=True,
        help="Evaluation folders, as `emostream evaluate` writes them, or NAME=FOLDER.",
    )
    out: str = option(help="JSON file for the table.")
    baseline: str | None = option(
        default=None,
        help="Method that the others are tested against: its name in the table, or its recipe if "
        "there is one method of it. Without it: finetune, or the first row of --rows.",
    )
    rows: tuple[str, ...] = option(
        default=(),
        help="Options whose values are the rows of a table with --columns, separated by commas: "
        "any option of `train` by its dotted name, such as encoder.checkpoint (an encoder that "
        "another run adapted is called by that run's recipe and options), "
        "encoder.from.model.face_weight (an option of that other run), shards, evaluate.shards; "
        "or name, for NAME=FOLDER. Runs that differ in engine.seed and data.subset_seed alone "
        "share a cell.",
    )
    columns: tuple[str, ...] = option(
        default=(),
        help="Options whose values are the columns, such as data.num_utterances or "
        "evaluate.shards; or class, for the F1 of each class. Without them, there is one column.",
    )
    figures: tuple[str, ...] = option(
        default=(),
        help="Figures of the table with --rows, such as F1,ACC,F1 bias; one table for each. "
        "Without them: F1, or every CCC where numbers are predicted.",
    )
    picture: str | None = option(
        default=None,
        help="SVG file for a picture of the first figure: what each row gains over the baseline, "
        "against the numbers of the one option in --columns, with 95 % intervals.",
    )

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("columns", "figures", "picture") if getattr(self, name)]
        if given and not self.rows:
            raise ConfigError(
                f"{', '.join(given)}: got without --rows, expected with it; give the options whose "
                "values are the rows, such as --rows encoder.checkpoint"
            )
        if CLASS in self.rows:
            raise ConfigError(f"--rows {CLASS}: expected in --columns, where each class is one")


def run_compare(config: CompareConfig) -> int:
    """Print the table, and write it to `out`."""
    runs = [read_run(folder) for folder in config.runs]
    if config.rows:
        write_json(config.out, tabulate(config, runs))
        return 0

    write_json(config.out, _by_methods(config, runs))
    return 0


def _by_methods(config: CompareConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Print the table of methods; return what the JSON file holds."""
    from trainers.evaluation.comparison import compare

    figures = shared_figures(runs)
    methods = by_method(runs)
    baseline = baseline_of(config.baseline or DEFAULT_BASELINE, methods)

    table = compare(methods, baseline, figures)
    shown = [name for name in figures if " std" not in name]
    print_table(table, methods, shown, baseline)

    resampled = {
        method: [run.resampled for run in by_seed.values() if run.resampled is not None]
        for method, by_seed in runs_by_method(runs).items()
    }
    intervals = intervals_of(resampled, table, baseline)
    print_intervals(intervals, table, baseline, *scale_of(figures))

    return {
        "baseline": baseline,
        "methods": {
            method: {
                name: asdict(cell) | intervals[method].get(name, {}) for name, cell in cells.items()
            }
            for method, cells in table.items()
        },
        "personalisation_gap": print_gaps(runs, shown),
    }


def tabulate(config: CompareConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Print the table of --rows and --columns, and draw it; return what the JSON file holds."""
    if CLASS in config.columns:
        runs = by_class(runs)

    figures = _chosen_figures(config.figures, shared_figures(runs))
    rows = make_axis("rows", config.rows, runs)
    columns = make_axis("columns", config.columns, runs)
    pivot = make_pivot(runs, rows, columns, figures, config.baseline)

    # Drawn first: a picture that cannot be drawn ends the command before a table is shown.
    picture = None if config.picture is None else draw_gains(pivot)
    print_pivot(pivot)
    if config.picture is not None and picture is not None:
        with atomic_write(config.picture) as stream:
            stream.write(picture.encode())
        sys.stdout.write(f"picture in {config.picture}\n")
    return document(pivot)


def _chosen_figures(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"--figures {', '.join(unknown)}: expected some of {', '.join(known)}, which all runs "
            "have"
        )
    if wanted:
        return tuple(wanted)
    return ("F1",) if "F1" in known else tuple(name for name in known if " std" not in name)


def shared_figures(runs: Sequence[Run]) -> tuple[str, ...]:
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

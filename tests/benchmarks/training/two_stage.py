"""Compares models that learn from unimodal and multimodal ratings, in worlds whose truth is known.

Run are models 1 to 12 of the paper's Table 1 (two-stage-aver), what it lacks (model 10 with four
streams, model 12 with unimodal labels of other utterances, and its branches averaged without stage
2), and the baselines of Table 2 as far as the recipe has them. All are measured against
audio-visual ratings of speakers nobody has heard. Worlds: fitted to CREMA-D; conflicting; null,
where unimodal ratings have nothing to add and no model may gain by them; unfair and unequal, whose
unfairness is known and has to be found, while none may be found in the others.

Test speakers are split off instead of folds, as a world has as many speakers as are wanted and
groups need many; `--folds 5` makes folds.

`--ravdess` runs on real voices and action units. Its ratings are SIMULATED from the acted emotion,
so it tests the pipeline, not the claim: no corpus with media and three kinds of ratings is at hand.

A kept folder continues where it was stopped: each cell (model, corpus, seed) has a file, and all
worlds with the first seed run before the next. `--report` shows what is there, says what did not
run, and what a cell of each kind took.
Two sizes were timed: 6 steps of 16 utterances took 1 to 5 processor seconds a cell, and 40 steps of
32 took 4 for a face branch (1 for 6 of 16). From these, the 95 cells of the defaults should take
less than an hour on two quiet cores; branches of sound at 40 steps were not timed, and the defaults
have not run.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.personalization_cells import Result, run_cells
from tests.benchmarks.training.personalization_tables import missing_table
from tests.benchmarks.training.two_stage_cells import Cell
from tests.benchmarks.training.two_stage_corpora import (
    RAVDESS,
    SIMULATED,
    Sizes,
    require_same_sizes,
    write_corpora,
)
from tests.benchmarks.training.two_stage_runs import BASELINES, MODELS, Bench, groups_of
from tests.benchmarks.training.two_stage_tables import (
    Run,
    Runs,
    baseline_table,
    cost_table,
    emotion_table,
    group_table,
    score_table,
)
from tests.benchmarks.training.two_stage_unfairness import unfairness_table
from tests.benchmarks.training.two_stage_worlds import WORLDS

DATA = ROOT.parent / "shared" / "data"
RAVDESS_FOLDS = 4
SIZES = {
    "train_speakers": (30, "speakers to train on"),
    "validation_speakers": (10, "speakers to choose the best step on"),
    "test_speakers": (40, "speakers to test"),
    "width": (32, "width of a branch and of the shared layers"),
    "layers": (1, "transformer layers of a branch"),
    "encoder_width": (32, "width of the speech encoder"),
    "encoder_layers": (1, "layers of the speech encoder"),
    "steps": (200, "training steps of every model"),
    "utterances": (32, "utterances in a step"),
}


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.folds in (1, 2):
        # One each to test, to validate and to train on.
        parser.error(f"--folds: got {options.folds}, expected 0 or at least 3")
    folds = options.folds or (RAVDESS_FOLDS if options.ravdess else 0)
    sizes = Sizes(**{name: getattr(options, name) for name in SIZES}, folds=folds)
    cells = list(_cells(options))

    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        require_same_sizes(folder, sizes)
        bench = Bench(folder, sizes)

        if not options.report:
            write_corpora(folder, {cell.corpus for cell in cells}, sizes, options.data)
            for seed in range(options.seeds):
                chosen = [cell for cell in cells if cell.seed == seed]
                run_cells(chosen, bench, options.workers)

        found = {cell: result for cell in cells if (result := cell.result(bench)) is not None}
        _report(cells, found, bench, options.against, sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ravdess", action="store_true", help=f"run on RAVDESS, with {SIMULATED}, by folds")
    add("--data", type=Path, default=DATA / "ravdess", help="folder of RAVDESS, with clips.csv")
    add("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS, help="kinds of worlds")
    add("--numbers", type=int, default=1, help="worlds of each kind")
    add("--seeds", type=int, default=1, help="training seeds a world")
    add("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    add("--against", default="10", choices=list(MODELS), help="model to compare others with")
    add("--folds", type=int, default=0, help="folds of speakers; 0: the split (RAVDESS: 4 folds)")
    add("--workers", type=int, default=2, help="cells at a time, one thread each")
    add("--keep", type=Path, default=None, help="folder to work in and keep; default: temporary")
    add("--report", action="store_true", help="run nothing: show the cells that have a result")
    for name, (value, text) in SIZES.items():
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{text} ({value})")
    return parser


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    """List the cells, all that a stage needs before it, whichever of these were asked for."""
    worlds = [f"{kind}-{number}" for number in range(options.numbers) for kind in options.worlds]
    needed = {branch for name in options.models for branch in MODELS[name].branches}
    chosen = [name for name in MODELS if name in {*options.models, *needed}]

    for seed in range(options.seeds):
        for corpus in [RAVDESS] if options.ravdess else worlds:
            for name in chosen:
                yield Cell(MODELS[name].kind, corpus, name, seed)


def _report(
    cells: Sequence[Cell],
    found: Mapping[Cell, Result],
    bench: Bench,
    against: str,
    out: TextIO,
) -> None:
    sizes = bench.sizes
    out.write(
        f"{machine()}; {sizes.steps} steps of {sizes.utterances}, branches {sizes.width} "
        "wide\nMeasured against audio-visual ratings of unseen speakers; in brackets, 95 % "
        "intervals of resampled speakers, as a mean over runs; p: paired t-test over speakers\n"
    )
    figures: dict[str, object] = {}
    for kind in dict.fromkeys(cell.corpus.rpartition("-")[0] or cell.corpus for cell in cells):
        chosen = _runs({cell: one for cell, one in found.items() if _is_of(cell, kind)}, bench)
        if chosen:
            figures[kind] = _tables(chosen, kind, bench, against, out)

    figures["not run"] = missing_table(cells, found, out)
    if not BASELINES:
        out.write("NOT THERE: the baselines of Table 2 (the recipe has no other architecture)\n")
    print_result("two_stage", figures)


def _tables(runs: Runs, kind: str, bench: Bench, against: str, out: TextIO) -> dict[str, object]:
    """The tables of one kind of world."""
    title = f"{kind}, SIMULATED RATINGS of real voices and faces" if kind == RAVDESS else kind
    figures: dict[str, object] = {}

    out.write(f"\n{title}: Table 1\n")
    figures["1"] = score_table(runs, against, out)
    if BASELINES:
        out.write(f"\n{title}: Table 2\n")
        figures["2"] = baseline_table(runs, out)
    out.write(f"\n{title}: Table 3, F1 of each emotion\n")
    figures["3"] = emotion_table(runs, out)
    for field in groups_of(kind):
        out.write(f"\n{title}: Table 5, groups by {field}\n")
        figures[f"5, {field}"] = group_table(runs, field, out)

    if kind != RAVDESS:
        out.write(f"\n{title}: known unfairness\n")
        figures["unfairness"] = unfairness_table(runs, kind, bench.sizes, out)
    out.write(f"\n{title}: cost\n")
    figures["cost"] = cost_table(runs, out)
    return figures


def _runs(found: Mapping[Cell, Result], bench: Bench) -> dict[str, list[Run]]:
    """The runs by model, in the order of MODELS."""
    runs: dict[str, list[Run]] = {name: [] for name in MODELS}
    for cell, result in found.items():
        runs[cell.name].append(
            Run(corpus=cell.corpus, seed=cell.seed, result=result, metrics=cell.metrics(bench))
        )
    return {name: mine for name, mine in runs.items() if mine}


def _is_of(cell: Cell, kind: str) -> bool:
    return cell.corpus == kind or cell.corpus.rpartition("-")[0] == kind


if __name__ == "__main__":
    main()

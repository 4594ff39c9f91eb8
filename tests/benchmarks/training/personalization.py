"""Compares the personalizing methods with the vanilla baseline on speakers nobody has heard.

The methods are SetPeER, Sridhar weighting, TAPT, PAPT and PLDC, and the baseline that they have to
beat, regression on statistics standardized by speaker. They run in synthetic worlds, whose truth is
known, or on RAVDESS, two test actors a fold. Every choice is made on validation speakers, even how
many of a speaker's utterances are seen together at test; "eights" are sets of 8, as in training.

Controls keep the comparison honest. Support from another speaker must lose what personalization
gained, and support from other utterances of the same speaker must keep it. In a null world, where
speakers do not differ, no method may win.

A kept folder continues where it was stopped: each cell (method, corpus, seed) has a file. Cells run
by seeds, all worlds with the first seed before the next, so that what is stopped early is balanced.
By the times of single runs on two quiet cores, the defaults (one seed) take about an hour, and so
does each further seed, and a seed on RAVDESS. `--report` shows what is there and says what did not
run.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.personalization_cells import Cell, Result, run_cells
from tests.benchmarks.training.personalization_corpora import NUM_FOLDS, write_corpora
from tests.benchmarks.training.personalization_runs import (
    ABLATIONS,
    GENERAL,
    METHODS,
    PLAIN,
    REGRESSION,
    TRAINING_SIZES,
    Bench,
    Method,
)
from tests.benchmarks.training.personalization_tables import (
    figure_table,
    method_table,
    missing_table,
)

DEFAULT_RAVDESS = ROOT.parent / "shared" / "data" / "ravdess"
REFERENCE = "SetPeER, codes in use"  # what ablations and set sizes vary
PARTS = (
    "normalization",
    "methods",
    "few-speakers",
    "scarce-speakers",
    "ablations",
    "training-sizes",
    "set-sizes",
    "pldc",
)
FEW_METHODS = (PLAIN, REFERENCE, "SetPeER, no codebook", "speaker-normalized")


def main() -> None:
    options = _parser().parse_args()
    cells = list(_cells(options))

    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, options.steps, options.adaptation_steps)
        if not options.report:
            write_corpora(folder, sorted({cell.corpus for cell in cells}), options.ravdess)
            run_cells(cells, bench, options.workers)

        found = {cell: result for cell in cells if (result := cell.result(bench)) is not None}
        _report(cells, found, sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", choices=["synthetic", "ravdess"], default="synthetic")
    add("--ravdess", type=Path, default=DEFAULT_RAVDESS, help="folder with clips.csv and audio/")
    add("--worlds", type=int, default=3, help="synthetic worlds")
    add("--folds", type=int, default=NUM_FOLDS, help=f"folds of RAVDESS, at most {NUM_FOLDS}")
    add("--nulls", type=int, default=None, help="null worlds; default: as worlds")
    add("--seeds", type=int, default=1, help="training seeds a world or fold")
    add("--steps", type=int, default=200, help="training steps of every recognizer")
    add("--adaptation-steps", type=int, default=200, help="steps of each masked prediction")
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    add("--methods", nargs="+", default=None, choices=list(METHODS), help="default: all that apply")
    add("--workers", type=int, default=os.cpu_count(), help="runs at a time, one thread each")
    add("--keep", type=Path, default=None, help="folder to work in and keep; default: temporary")
    add("--report", action="store_true", help="run nothing: show the cells that have a result")
    return parser


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    """List the cells, the longest-awaited first: all worlds with one seed, then with the next."""
    is_synthetic = options.corpus == "synthetic"
    worlds = [f"world-{number}" for number in range(options.worlds)]
    if not is_synthetic:
        worlds = [f"ravdess-{fold:02d}" for fold in range(options.folds)]
    seeds = range(options.seeds)

    if "normalization" in options.parts:
        for world in worlds:
            yield Cell("normalization", world, "regression", 0, METHODS[PLAIN])
    if "methods" in options.parts:
        num_nulls = options.worlds if options.nulls is None else options.nulls
        nulls = [f"null-{number}" for number in range(num_nulls if is_synthetic else 0)]
        yield from _of_methods(_applicable(options), [*worlds, *nulls], seeds)

    if is_synthetic:
        for part in ("few-speakers", "scarce-speakers"):
            if part in options.parts:
                few = [f"{part.partition('-')[0]}-{number}" for number in range(options.worlds)]
                chosen = {name: METHODS[name] for name in FEW_METHODS}
                yield from _product(part, few, seeds, chosen)
        if "pldc" in options.parts:
            linked = [f"linked-{number}" for number in range(options.worlds)]
            yield from _product("pldc", linked, seeds, {"PLDC": REGRESSION})

    reference = {REFERENCE: METHODS[REFERENCE]}
    for part, variants in (
        ("ablations", ABLATIONS),
        ("training-sizes", TRAINING_SIZES),
        ("set-sizes", {}),
    ):
        if part in options.parts:
            yield from _product(part, worlds, seeds, reference | dict(variants))


def _applicable(options: argparse.Namespace) -> dict[str, Method]:
    # The general encoder has heard synthetic speech, so a start from it says nothing on RAVDESS.
    is_synthetic = options.corpus == "synthetic"
    methods = {name: one for name, one in METHODS.items() if is_synthetic or one.start is None}
    return {name: methods[name] for name in options.methods or methods}


def _of_methods(
    methods: Mapping[str, Method], worlds: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    if any(method.start for method in methods.values()):
        yield Cell("general", GENERAL, "general", 0, METHODS[PLAIN])
    yield from _product("methods", worlds, seeds, methods)


def _product(
    kind: str, worlds: Sequence[str], seeds: Sequence[int], methods: Mapping[str, Method]
) -> Iterator[Cell]:
    for seed in seeds:
        for world in worlds:
            for name, method in methods.items():
                yield Cell(kind, world, name, seed, method)


def _report(cells: Sequence[Cell], found: Mapping[Cell, Result], out: TextIO) -> None:
    out.write(
        f"{machine()}\nA-ACC in percent over speakers unseen in training; [95 % interval of the "
        "difference, from resampled speakers], p: paired t-test over speakers\n"
    )
    figures: dict[str, object] = {}

    for world in ("world", "null", "ravdess"):
        chosen = _chosen(found, "methods", world)
        rows = method_table(chosen, PLAIN, f"methods, {world}", out)
        figures |= {f"{world}: {name}": row for name, row in rows.items()}

    for part, baseline, title in (
        ("few-speakers", PLAIN, "a tenth of the training speakers, ten times as much of each"),
        ("scarce-speakers", PLAIN, "a tenth of the training speakers, 60 utterances of each"),
        ("ablations", REFERENCE, "ablations (Table X)"),
        ("training-sizes", REFERENCE, "set size in training and test (Fig. 8)"),
    ):
        rows = method_table(_chosen(found, part), baseline, title, out)
        figures |= {f"{part}: {name}": row for name, row in rows.items()}

    for kind, title in (
        ("normalization", "plain regression on statistics standardized by whom"),
        ("set-sizes", "utterances in a set at test, 0: all"),
        ("pldc", "PLDC, A-CCC in percent"),
    ):
        figures[kind] = figure_table(_chosen(found, kind), title, out)

    figures["not run"] = missing_table(cells, found, out)
    print_result("personalization", figures)


def _chosen(found: Mapping[Cell, Result], kind: str, world: str = "") -> dict[Cell, Result]:
    return {
        cell: result
        for cell, result in found.items()
        if cell.kind == kind and cell.corpus.startswith(world)
    }


if __name__ == "__main__":
    main()

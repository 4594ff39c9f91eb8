"""What targets beside the labels teach a speech encoder: O1, O2 and O3.

A small encoder is adapted to a pool of unlabeled speakers by acoustic descriptors (O1), sentiment
(O2) and faces (O3). Then a head is trained on its frozen frames (`probe`), or all of it is
fine-tuned (`finetune`), with some or all labels of other speakers; third ones test it. It is
compared with the same encoder before any training, with O1's weaker first try (energy), with a
probe on O1's own vectors, and with targets permuted over the utterances, which may teach no more
than what speech is like. Where face and words tell nothing, O2 and O3 cannot help; where no channel
tells anything, nothing can.

`weights` has the further weights of Table VI of multimodal-adaptive-pretraining, in the default
world. `ravdess` has recorded speech by folds of speakers: targets are those of the training actors,
or of LibriSpeech; words tell nothing there, for two sentences are spoken with all emotions.
`sentiment` tries O2's classifier on GoEmotions, and `cost` measures what each objective costs.

A kept folder continues where it was stopped: each cell (method, corpus, seed) has a file.
`--report` shows what is there and what did not run.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.multimodal.cells import COST, SENTIMENT, Cell
from tests.benchmarks.training.multimodal.corpora import RAVDESS, WORLDS, write_corpora
from tests.benchmarks.training.multimodal.methods import (
    BEFORE,
    METHODS,
    REAL,
    VECTORS,
    WEIGHTS,
    WORLD,
    Method,
)
from tests.benchmarks.training.multimodal.runs import Bench, Sizes
from tests.benchmarks.training.multimodal.sentiment import NAMED, OF_GOEMOTIONS, OF_WORLDS
from tests.benchmarks.training.multimodal.tables import figure_table, method_table
from tests.benchmarks.training.personalization_cells import Result, run_cells
from tests.benchmarks.training.personalization_tables import missing_table
from tests.benchmarks.training.pretraining_corpora import require_same_sizes

DATA = ROOT.parent / "shared" / "data"
WAYS = ("probe", "finetune")
PARTS = (
    *WAYS,
    *(f"{prefix}-{way}" for prefix in ("weights", RAVDESS) for way in WAYS),
    SENTIMENT,
    COST,
)
DEFAULT = "default"
SIZES = {
    "pool": (60, "unlabeled speakers"),
    "train": (48, "labeled speakers to train on"),
    "validation": (12, "labeled speakers to choose a model on"),
    "test": (40, "labeled speakers to test"),
    "width": (64, "width of the encoder"),
    "layers": (4, "layers of the encoder"),
    "steps": (300, "training steps of stage 1"),
    "tune_steps": (300, "training steps of fine-tuning"),
    "utterances": (32, "utterances in a step"),
    "resamplings": (3, "choices of few labels that a probe is trained on"),
    "probe_epochs": (40, "epochs of every probe"),
}


def main() -> None:
    options = _parser().parse_args()
    numbers = {name: getattr(options, name) for name in SIZES}
    sizes = Sizes(**numbers, labels=options.labels)
    cells = list(_cells(options))

    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        require_same_sizes(folder, sizes)
        bench = Bench(folder, sizes, options.goemotions, options.sentiment)

        if not options.report:
            needed = {corpus for cell in cells for corpus in cell.corpora()}
            write_corpora(folder, needed, sizes, options.ravdess, options.librispeech)
            run_cells(cells, bench, options.workers)

        found = {cell: result for cell in cells if (result := cell.result(bench)) is not None}
        _report(cells, found, sizes, sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    add("--kinds", nargs="+", default=list(WORLDS), choices=WORLDS, help="kinds of worlds")
    add("--worlds", type=int, default=1, help="synthetic worlds of each kind")
    add("--seeds", type=int, default=1, help="training seeds")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--labels", nargs="*", type=int, default=[100, 300, 1000], help="few labels, besides all")
    add("--ravdess", type=Path, default=DATA / "ravdess", help="folder with clips.csv and audio/")
    add("--librispeech", type=Path, default=DATA / "librispeech", help="its pool, of the same form")
    add("--goemotions", type=Path, default=DATA / "goemotions", help="folder with test.tsv")
    add("--sentiment", default=None, help="folder of a sentiment classifier to try beside ours")
    add("--workers", type=int, default=1, help="cells at a time, one thread each")
    add("--keep", type=Path, default=None, help="folder to work in and keep; default: temporary")
    add("--report", action="store_true", help="run nothing: show the cells that have a result")
    for name, (value, text) in SIZES.items():
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{text} ({value})")
    return parser


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for seed in range(options.seeds):
        for part in options.parts:
            if part in (SENTIMENT, COST):
                if seed == 0:
                    yield from _measurements(part, options)
                continue

            methods, corpora = _of_part(part, options)
            for corpus in corpora:
                for name, method in methods.items():
                    is_run = part.endswith("probe") or method.has_encoder
                    if name in options.methods and is_run:
                        yield Cell(part, corpus, name, seed)


def _of_part(part: str, options: argparse.Namespace) -> tuple[Mapping[str, Method], Sequence[str]]:
    """The methods and the corpora of a part."""
    if part.startswith(RAVDESS):
        return REAL, [RAVDESS]
    if part.startswith("weights"):
        return WEIGHTS, [f"{DEFAULT}-{world}" for world in range(options.worlds)]
    return WORLD, [f"{kind}-{world}" for kind in options.kinds for world in range(options.worlds)]


def _measurements(part: str, options: argparse.Namespace) -> Iterator[Cell]:
    world = f"{DEFAULT}-0"
    if part == COST:
        yield from (Cell(COST, corpus, "objectives", 0) for corpus in (world, RAVDESS))
        return

    named = () if options.sentiment is None else (NAMED,)
    for name in (OF_WORLDS, OF_GOEMOTIONS, *named):
        yield Cell(SENTIMENT, world, name, 0)


def _report(cells: Sequence[Cell], found: Mapping[Cell, Result], sizes: Sizes, out: TextIO) -> None:
    out.write(
        f"{machine()}; {sizes.steps} steps of {sizes.utterances} utterances\nAccuracy in percent "
        "on speakers of whom nothing was heard; [95 % interval of the difference, from resampled "
        "speakers], p: paired t-test over speakers\n"
    )
    figures: dict[str, object] = {}
    for way in WAYS:
        for kind in WORLDS:
            mine = _chosen(found, way, kind)
            for baseline in (BEFORE, VECTORS):
                title = f"{way}, {kind}, against {baseline}"
                figures[title] = method_table(mine, baseline, f"{way}, {kind}", out)

        # The rows of Table VI that are among the methods, and its others.
        weighed = _chosen(found, way, DEFAULT) | _chosen(found, f"weights-{way}", DEFAULT)
        rows = {cell: result for cell, result in weighed.items() if _is_weighed(cell.name)}
        for baseline in ("O1", "O1+.5*O2"):
            title = f"weights (Table VI), {way}"
            figures[f"{title}, against {baseline}"] = method_table(rows, baseline, title, out)

        recorded = _chosen(found, f"{RAVDESS}-{way}", RAVDESS)
        for baseline in (BEFORE, VECTORS):
            title = f"RAVDESS by speaker folds, {way}"
            figures[f"{title}, against {baseline}"] = method_table(recorded, baseline, title, out)

    for part in (SENTIMENT, COST):
        mine = {cell: result for cell, result in found.items() if cell.kind == part}
        figures[part] = figure_table(mine, part, out)

    figures["not run"] = missing_table(cells, found, out)
    print_result("multimodal", {name: value for name, value in figures.items() if value != {}})


def _chosen(found: Mapping[Cell, Result], kind: str, corpus: str) -> dict[Cell, Result]:
    """The cells of a kind on the corpora of a world's kind, or on RAVDESS."""
    return {
        cell: result
        for cell, result in found.items()
        if cell.kind == kind and cell.corpus in (corpus, *_numbered(cell.corpus, corpus))
    }


def _numbered(name: str, corpus: str) -> Sequence[str]:
    stem, _, number = name.rpartition("-")
    return [name] if stem == corpus and number.isdigit() else []


def _is_weighed(name: str) -> bool:
    return name in WEIGHTS or name in ("O1", "O1+.5*O2", "O1+.5*O2+O3")


if __name__ == "__main__":
    main()

"""The cells of the personalization benchmark: one method on one corpus with one training seed.

A cell writes its result to a file, and is not computed again when the file is there, so a run that
was stopped, or that ran in parts, goes on where it was. A result holds figures in percent and the
accuracy of each test speaker, by which methods are compared.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shards.storage.documents import read_json, write_json
from tests.benchmarks.training.normalized_statistics import normalized_accuracies
from tests.benchmarks.training.personalization_corpora import fold_options
from tests.benchmarks.training.personalization_runs import (
    LABELS,
    REGRESSION,
    Bench,
    Method,
    true_calibration,
)

CONTROLS = ("disjoint", "wrong")
TRAINING_SIZE = 8  # utterances in a set, unless a method has another size
TRIED_SIZES = (TRAINING_SIZE, 16, 32, 0)  # in a set at test; 0: all
SET_SIZES = (1, 2, 4, 8, 16, 0)
NEIGHBORS = (1, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell found: figures in percent, and each test speaker's accuracy in percent."""

    figures: dict[str, float]
    speakers: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


Found = tuple[dict[str, float], dict[str, float]]


def read_result(path: Path) -> Result | None:
    """The result in the file, if there is one."""
    return Result(**read_json(path)) if path.exists() else None


def write_result(path: Path, result: Result) -> None:
    """Write the result, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(str(path), asdict(result))


def kept(path: Path, measure: Callable[[], Found]) -> Result:
    """The result in the file, or what `measure` finds, which is written there with its seconds."""
    found = read_result(path)
    if found is None:
        started = time.perf_counter()
        figures, speakers = measure()
        found = Result(figures, speakers, time.perf_counter() - started)
        write_result(path, found)
    return found


class Place(Protocol):
    """A bench: where runs and results are kept."""

    @property
    def folder(self) -> Path:
        """The folder that is kept."""


BenchT = TypeVar("BenchT", bound=Place, contravariant=True)


class NamedCell(Protocol):
    """What a cell is called."""

    @property
    def kind(self) -> str:
        """The measurement."""

    @property
    def corpus(self) -> str:
        """What it is made on; a number of the world or fold stands at the end."""

    @property
    def name(self) -> str:
        """What is measured."""

    @property
    def seed(self) -> int:
        """The training seed."""


class RunnableCell(NamedCell, Protocol[BenchT]):
    """A cell of any benchmark, as `run_cells` runs it."""

    def result(self, bench: BenchT) -> Result | None:
        """The result, if there is one."""

    def run(self, bench: BenchT) -> Result:
        """Compute the cell, unless it has a result, and write it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One method on one corpus with one training seed; `kind` names the measurement."""

    kind: str
    corpus: str
    name: str
    seed: int
    method: Method

    def path(self, bench: Bench) -> Path:
        """The file of the result."""
        length = f"{bench.steps}-{bench.adaptation_steps}"
        name = self.name.replace(" ", "-").replace(",", "")
        return (
            bench.folder / "cells" / self.kind / f"{self.corpus}-{name}-{self.seed}-{length}.json"
        )

    def result(self, bench: Bench) -> Result | None:
        """The result, if there is one."""
        return read_result(self.path(bench))

    def run(self, bench: Bench) -> Result:
        """Compute the cell, unless it has a result, and write it."""
        return kept(self.path(bench), lambda: _MEASUREMENTS[self.kind](self, bench))


def run_cells(cells: Sequence[RunnableCell[BenchT]], bench: BenchT, workers: int) -> None:
    """Run cells of one kind at a time, so that none trains what another one is training."""
    os.environ["OMP_NUM_THREADS"] = "1"
    log = str(bench.folder / "log")
    left = [cell for cell in cells if cell.result(bench) is None]
    sys.stderr.write(f"{len(cells) - len(left)} of {len(cells)} cells have a result\n")

    for kind in dict.fromkeys(cell.kind for cell in left):
        spawn = get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=spawn, initializer=_to_log, initargs=(log,)
        ) as pool:
            running: dict[Future[Result], RunnableCell[BenchT]] = {
                pool.submit(cell.run, bench): cell for cell in left if cell.kind == kind
            }
            for future in as_completed(running):
                cell, found = running[future], future.result()
                shown = ", ".join(f"{name} {value:.1f}" for name, value in found.figures.items())
                sys.stderr.write(
                    f"{cell.kind}: {cell.corpus}, {cell.name}, seed {cell.seed}: {shown} "
                    f"({found.seconds:.0f} s)\n"
                )


def _to_log(log: str) -> None:
    """Write what the commands print to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _general(cell: Cell, bench: Bench) -> Found:
    bench.adapt("general", cell.corpus, cell.seed)
    return {}, {}


def _normalization(cell: Cell, bench: Bench) -> Found:
    shards = bench.shards(cell.corpus)
    return normalized_accuracies(shards, **fold_options(cell.corpus)), {}


def _method(cell: Cell, bench: Bench) -> Found:
    """Measure the test speakers, with the controls where the method has sets."""
    run = bench.train(cell.corpus, cell.method, cell.seed)
    if cell.method.has_sets:
        measured = _in_chosen_sets(bench, run, cell.corpus)
    else:
        measured = {"same": bench.evaluate(run, cell.corpus, "same")}

    figures = {name: _accuracy(metrics) for name, metrics in measured.items()}
    figures["f1"] = 100 * measured["same"]["scores"]["speaker_f1"]
    if "codes_used" in measured["same"]:
        figures["codes"] = measured["same"]["codes_used"]
    return figures, _speakers(measured["same"])


def _training_size(cell: Cell, bench: Bench) -> Found:
    run = bench.train(cell.corpus, cell.method, cell.seed)
    sized = _in_sets(bench, run, cell.corpus, cell.method.set_size or TRAINING_SIZE)
    return {"same": _accuracy(sized)}, _speakers(sized)


def _set_sizes(cell: Cell, bench: Bench) -> Found:
    run = bench.train(cell.corpus, cell.method, cell.seed)
    found = {str(size): _in_sets(bench, run, cell.corpus, size) for size in SET_SIZES}
    return {name: _accuracy(metrics) for name, metrics in found.items()}, {}


def _pldc(cell: Cell, bench: Bench) -> Found:
    """Compute A-CCC (mean of arousal and valence) as predicted and calibrated.

    k is the best for mu on validation speakers.
    """
    corpus = cell.corpus
    target = {"kind": "values", "values": LABELS}
    run = bench.train(corpus, REGRESSION, cell.seed, target=target)

    def ccc(name: str, *arguments: str) -> float:
        scores = bench.evaluate(run, corpus, name, *arguments)["scores"]
        return float(100 * statistics.mean(scores["over_speakers"]))

    def chosen(k: int) -> list[str]:
        return ["--neighbors", str(k), "--pldc"]

    tried = {
        k: ccc(f"validation-{k}", "--split", "validation", *chosen(k), "mu") for k in NEIGHBORS
    }
    best = max(NEIGHBORS, key=lambda k: tried[k])

    figures = {"as predicted": ccc("base"), "k": float(best)}
    for mode in ("mu", "sigma", "both"):
        figures[mode] = ccc(f"pldc-{mode}", *chosen(best), mode)
        figures[f"true {mode}"] = 100 * true_calibration(run / "base", bench.shards(corpus), mode)
    return figures, {}


_MEASUREMENTS = {
    "general": _general,
    "normalization": _normalization,
    "methods": _method,
    "few-speakers": _method,
    "scarce-speakers": _method,
    "ablations": _method,
    "training-sizes": _training_size,
    "set-sizes": _set_sizes,
    "pldc": _pldc,
}


def _in_sets(
    bench: Bench, run: Path, corpus: str, size: int, split: str = "test", support: str = "same"
) -> dict[str, Any]:
    """Measure the split's speakers in sets of `size`, once for all parts that ask."""
    options = ["--split", split, "--set-size", str(size), "--support", support]
    return bench.evaluate(run, corpus, f"{split}-{size}-{support}", *options)


def _in_chosen_sets(bench: Bench, run: Path, corpus: str) -> dict[str, dict[str, Any]]:
    """Measure the test speakers and the controls in sets of the best size.

    That is the size that is best for the validation speakers.
    """
    tried = {
        size: _accuracy(_in_sets(bench, run, corpus, size, "validation")) for size in TRIED_SIZES
    }
    best = max(TRIED_SIZES, key=lambda size: tried[size])

    measured = {
        support: _in_sets(bench, run, corpus, best, support=support)
        for support in ("same", *CONTROLS)
    }
    return measured | {"eights": _in_sets(bench, run, corpus, TRAINING_SIZE)}


def _accuracy(metrics: Mapping[str, Any]) -> float:
    return 100 * float(metrics["scores"]["speaker_accuracy"])


def _speakers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: 100 * float(found["accuracy"]) for name, found in metrics["per_speaker"].items()}

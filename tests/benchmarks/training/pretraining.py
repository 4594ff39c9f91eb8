"""Measures what emotion2vec's pre-training is worth: frozen probes on speakers nobody has heard.

Encoders are pre-trained on a pool without labels, frozen, and probed with few or all labels of
other speakers. Compared are a random encoder, spectral statistics, a start on neutral speech, a
cold start and one continued from the neutral; the terms of the loss, the predictor of utterances,
alpha, and both readings of the utterance's target (Tables 8 to 11 of Ma et al. 2024). Probes hear
frames, their mean, the extra tokens, or frames and tokens. `foreign` probes the same encoders in
another language. In `talk`, a speaker's next emotion is predicted from six turns of a dialogue, in
which emotions last and spread; in `apart` they do not, and nothing may win.

`--corpus ravdess` pre-trains on LibriSpeech and eight actors of RAVDESS, and probes the others by
folds of speakers and by random folds, which share speakers, each also with labels permuted within
each actor, where nothing may win.

A kept folder continues where it was stopped: each cell (encoder, corpus, seed) has a file, and all
worlds with the first seed run before the next. `--report` shows what is there and what did not run.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.personalization_cells import Result, run_cells
from tests.benchmarks.training.personalization_tables import difference, missing_table
from tests.benchmarks.training.pretraining_cells import Cell, of_setting
from tests.benchmarks.training.pretraining_corpora import (
    DIALOGUES,
    RAVDESS,
    Sizes,
    require_same_sizes,
    write_corpora,
)
from tests.benchmarks.training.pretraining_runs import (
    IN_DIALOGUES,
    METHODS,
    RANDOM,
    STATISTICS,
    Bench,
)

DATA = ROOT.parent / "shared" / "data"
KINDS = ("world", "foreign", *DIALOGUES, RAVDESS)
NOT_THERE = (
    "an encoder for each fold of RAVDESS (its pool has eight actors, whom no probe hears)",
)
SIZES = {
    "pool_speakers": (100, "speakers of the pool"),
    "train_speakers": (36, "labeled speakers to train probes on"),
    "validation_speakers": (12, "labeled speakers to choose the epoch on"),
    "test_speakers": (40, "labeled speakers to test"),
    "width": (64, "width of the encoder"),
    "layers": (6, "layers of the encoder, with the prenet"),
    "prenet_layers": (2, "layers that give no target"),
    "clones": (4, "times that an utterance is heard in a step"),
    "steps": (1500, "training steps of every encoder"),
    "utterances": (32, "utterances in a step"),
    "resamplings": (3, "choices of few labels, of which figures are means"),
    "probe_epochs": (100, "epochs of every probe"),
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
        bench = Bench(folder, sizes)

        if not options.report:
            needed = {corpus for cell in cells for corpus in cell.corpora(bench)}
            write_corpora(folder, needed, sizes, options.ravdess, options.librispeech)
            run_cells(cells, bench, options.workers)

        found = {cell: result for cell in cells if (result := cell.result(bench)) is not None}
        _report(cells, found, sizes, sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", choices=["synthetic", "ravdess"], default="synthetic")
    add("--ravdess", type=Path, default=DATA / "ravdess", help="folder with clips.csv and audio/")
    add("--librispeech", type=Path, default=DATA / "librispeech", help="its pool, of the same form")
    add("--worlds", type=int, default=3, help="synthetic worlds")
    add("--seeds", type=int, default=1, help="training seeds a world")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--labels", nargs="*", type=int, default=[100, 300], help="few labels, besides all")
    # A run in parallel would train what a start needs twice, at the same place.
    add("--workers", type=int, default=1, help="cells at a time, one thread each")
    add("--keep", type=Path, default=None, help="folder to work in and keep; default: temporary")
    add("--report", action="store_true", help="run nothing: show the cells that have a result")
    for name, (value, text) in SIZES.items():
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{text} ({value})")
    return parser


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for seed in range(options.seeds):
        if options.corpus == RAVDESS:
            yield from (Cell(RAVDESS, RAVDESS, name, seed) for name in options.methods)
            continue
        for kind in ("world", "foreign", *DIALOGUES):
            chosen = IN_DIALOGUES if kind in DIALOGUES else METHODS
            names = [name for name in options.methods if name in chosen]
            for world in range(options.worlds):
                yield from (Cell(kind, f"{kind}-{world}", name, seed) for name in names)


def _report(cells: Sequence[Cell], found: Mapping[Cell, Result], sizes: Sizes, out: TextIO) -> None:
    out.write(
        f"{machine()}; {sizes.steps} steps of {sizes.utterances} utterances\nAccuracy in percent "
        "of probes on frozen features; [95 % interval of the difference, from resampled speakers], "
        "p: paired t-test over speakers\n"
    )
    figures: dict[str, object] = {}
    for kind in KINDS:
        chosen = {cell: result for cell, result in found.items() if cell.kind == kind}
        if chosen:
            figures[kind] = _table(chosen, kind, out)

    figures["not run"] = missing_table(cells, found, out)
    out.write("NOT THERE: " + "; ".join(NOT_THERE) + "\n")
    print_result("pretraining", figures)


def _table(found: Mapping[Cell, Result], kind: str, out: TextIO) -> dict[str, object]:
    """One line for each encoder and setting, with differences to both baselines."""
    out.write(f"\n{kind}\n")
    rows: dict[str, object] = {}
    for name in dict.fromkeys(cell.name for cell in found):
        mine = [result for cell, result in found.items() if cell.name == name]
        for setting in mine[0].figures:
            mean = statistics.mean(result.figures[setting] for result in mine)
            line = f"{name:24s} {setting:22s} {mean:5.1f} ({len(mine)} runs)"
            for baseline in (RANDOM, STATISTICS):
                gain = difference(
                    _per_speaker(found, name, setting), _per_speaker(found, baseline, setting)
                )
                line += "" if gain is None else f"  to {baseline}: {gain}"
            out.write(line + "\n")
            rows[f"{name}, {setting}"] = mean
    return rows


def _per_speaker(
    found: Mapping[Cell, Result], name: str, setting: str
) -> dict[tuple[str, str], float]:
    """Each speaker's accuracy, averaged over seeds, which test the same speakers."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell, result in found.items():
        if cell.name == name:
            for speaker, accuracy in of_setting(result.speakers, setting).items():
                values[cell.corpus, speaker].append(accuracy)
    return {speaker: statistics.mean(mine) for speaker, mine in values.items()}


if __name__ == "__main__":
    main()

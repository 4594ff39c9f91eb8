"""Compares the personalizing methods with the vanilla baseline on speakers nobody has heard.

The methods are SetPeER, Sridhar weighting, TAPT, PAPT and PLDC, in synthetic worlds, whose truth is
known, or on RAVDESS. Every choice is made on validation speakers, even how many of a speaker's
utterances SetPeER sees together at test; "eights" are sets of 8, as in training. Controls keep the
comparison honest. Support from another speaker must lose what personalization gained, and support
from other utterances of the same speaker must keep it. In a null world, where speakers do not
differ, no method may win. Significance is a paired t-test over worlds and training seeds. A kept
folder continues where it was stopped.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scipy.stats import ttest_rel

from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.normalized_statistics import normalized_accuracies
from tests.benchmarks.training.personalization_corpora import write_corpora
from tests.benchmarks.training.personalization_runs import (
    ABLATIONS,
    GENERAL,
    LABELS,
    METHODS,
    PLAIN,
    REGRESSION,
    TRAINING_SIZES,
    Bench,
    Method,
    true_calibration,
)

DEFAULT_RAVDESS = ROOT.parent / "shared" / "data" / "ravdess"
REFERENCE = "SetPeER, codes in use"  # what ablations and set sizes vary
CONTROLS = ("disjoint", "wrong")
TRAINING_SIZE = 8  # utterances in a set, unless a method has another size
TRIED_SIZES = (TRAINING_SIZE, 16, 32, 0)  # in a set at test; 0: all
SET_SIZES = (1, 2, 4, 8, 16, 0)
NEIGHBORS = (1, 3, 5, 10, 20)
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
FEW_METHODS = (PLAIN, REFERENCE, "SetPeER, no codebook")

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One method on one corpus with one training seed; `kind` names the measurement."""

    kind: str
    corpus: str
    name: str
    seed: int
    method: Method

    def run(self, bench: Bench) -> dict[str, float]:
        """Run the job, and return its figures in percent."""
        if self.kind == "general":
            bench.adapt("general", self.corpus, self.seed)
            return {}
        if self.kind == "pldc":
            return _pldc(bench, self.corpus, self.seed)
        if self.kind == "normalization":
            return normalized_accuracies(bench.shards(self.corpus))

        run = bench.train(self.corpus, self.method, self.seed)
        if self.kind == "set-sizes":
            found = {str(size): _in_sets(bench, run, self.corpus, size) for size in SET_SIZES}
            return {
                name: 100 * metrics["scores"]["speaker_accuracy"] for name, metrics in found.items()
            }
        if self.kind == "training-sizes":
            sized = _in_sets(bench, run, self.corpus, self.method.set_size or TRAINING_SIZE)
            return {"same": 100 * sized["scores"]["speaker_accuracy"]}

        if self.method.recipe == "setpeer":
            measured = _in_chosen_sets(bench, run, self.corpus)
        else:
            measured = {"same": bench.evaluate(run, self.corpus, "same")}

        scores = {
            name: 100 * metrics["scores"]["speaker_accuracy"] for name, metrics in measured.items()
        }
        scores["f1"] = 100 * measured["same"]["scores"]["speaker_f1"]
        if "codes_used" in measured["same"]:
            scores["codes"] = measured["same"]["codes_used"]
        return scores


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
        size: _in_sets(bench, run, corpus, size, "validation")["scores"]["speaker_accuracy"]
        for size in TRIED_SIZES
    }
    best = max(TRIED_SIZES, key=lambda size: tried[size])

    measured = {
        support: _in_sets(bench, run, corpus, best, support=support)
        for support in ("same", *CONTROLS)
    }
    return measured | {"eights": _in_sets(bench, run, corpus, TRAINING_SIZE)}


def _pldc(bench: Bench, corpus: str, seed: int) -> dict[str, float]:
    """Compute A-CCC (mean of arousal and valence) as predicted and calibrated.

    k is the best for mu on validation speakers.
    """
    run = bench.train(corpus, REGRESSION, seed, target={"kind": "values", "values": LABELS})

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
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=["synthetic", "ravdess"], default="synthetic")
    parser.add_argument(
        "--ravdess", type=Path, default=DEFAULT_RAVDESS, help="folder with clips.csv and audio/"
    )
    parser.add_argument(
        "--worlds", type=int, default=3, help="synthetic worlds, or folds of RAVDESS (at most 3)"
    )
    parser.add_argument(
        "--nulls",
        type=int,
        default=None,
        help="null worlds, with the first seed; default: as worlds",
    )
    parser.add_argument("--seeds", type=int, default=3, help="training seeds a world")
    parser.add_argument("--steps", type=int, default=400, help="training steps of every recognizer")
    parser.add_argument(
        "--adaptation-steps", type=int, default=400, help="steps of each masked prediction"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--methods", nargs="+", default=None, choices=list(METHODS), help="default: all that apply"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="runs at a time, one thread each"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="folder to work in and keep; default: a temporary one",
    )

    options = parser.parse_args()
    jobs = _jobs(options)

    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_corpora(folder, sorted({job.corpus for job in jobs}), options.ravdess)
        bench = Bench(folder, options.steps, options.adaptation_steps)
        found = _run_all(jobs, bench, options.workers)
    _report(found, sys.stdout)


def _jobs(options: argparse.Namespace) -> list[Job]:
    """List the jobs, the longest-awaited first: all worlds with one seed, then with the next."""
    is_synthetic = options.corpus == "synthetic"
    worlds = [
        f"{'world' if is_synthetic else 'ravdess'}-{number}" for number in range(options.worlds)
    ]

    # The general encoder has heard synthetic speech, so a start from it says nothing on RAVDESS.
    methods = {
        name: method for name, method in METHODS.items() if is_synthetic or method.start is None
    }
    methods = {name: methods[name] for name in options.methods or methods}

    jobs: list[Job] = []

    if "normalization" in options.parts:
        jobs += [Job("normalization", world, "regression", 0, METHODS[PLAIN]) for world in worlds]

    if "methods" in options.parts:
        if any(method.start for method in methods.values()):
            jobs.append(Job("general", GENERAL, "general", 0, METHODS[PLAIN]))
        num_nulls = options.worlds if options.nulls is None else options.nulls
        nulls = [f"null-{number}" for number in range(num_nulls if is_synthetic else 0)]
        seeds = [
            (w, s) for s in range(options.seeds) for w in [*worlds, *(nulls if s == 0 else [])]
        ]
        jobs += [Job("methods", w, n, s, m) for w, s in seeds for n, m in methods.items()]

    for part in ("few-speakers", "scarce-speakers"):
        if part in options.parts and is_synthetic:
            kind = part.partition("-")[0]
            few = [
                (f"{kind}-{number}", seed)
                for seed in range(options.seeds)
                for number in range(options.worlds)
            ]
            jobs += [
                Job(part, world, name, seed, METHODS[name])
                for world, seed in few
                for name in FEW_METHODS
            ]

    for part, variants in (("ablations", ABLATIONS), ("training-sizes", TRAINING_SIZES)):
        if part in options.parts:
            wanted = {REFERENCE: METHODS[REFERENCE], **variants}
            jobs += [
                Job(part, w, n, s, m)
                for s in range(options.seeds)
                for w in worlds
                for n, m in wanted.items()
            ]

    if "set-sizes" in options.parts:
        jobs += [
            Job("set-sizes", w, REFERENCE, s, METHODS[REFERENCE])
            for s in range(options.seeds)
            for w in worlds
        ]

    if "pldc" in options.parts and is_synthetic:
        jobs += [
            Job("pldc", f"linked-{n}", "PLDC", s, REGRESSION)
            for s in range(options.seeds)
            for n in range(options.worlds)
        ]

    return jobs


def _run_all(jobs: Sequence[Job], bench: Bench, workers: int) -> dict[Job, Scores]:
    """Run jobs of one kind at a time, so that none trains what another one is training."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[Job, Scores] = {}
    log = str(bench.folder / "log")

    for kind in dict.fromkeys(job.kind for job in jobs):
        spawn = get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=spawn, initializer=_to_log, initargs=(log,)
        ) as pool:
            running: dict[Future[dict[str, float]], Job] = {
                pool.submit(job.run, bench): job for job in jobs if job.kind == kind
            }

            for future in as_completed(running):
                job = running[future]
                found[job] = future.result()
                shown = ", ".join(f"{name} {value:.1f}" for name, value in found[job].items())
                sys.stderr.write(
                    f"{job.kind}: {job.corpus}, {job.name}, seed {job.seed}: {shown}\n"
                )

    return found


def _to_log(log: str) -> None:
    """Write what the commands print to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _report(found: Mapping[Job, Scores], out: TextIO) -> None:
    out.write(f"{machine()}\nA-ACC in percent over speakers unseen in training; p: paired t-test\n")
    figures: dict[str, object] = {}

    for kind in ("world", "null", "ravdess"):
        runs = {
            job: scores
            for job, scores in found.items()
            if job.kind == "methods" and job.corpus.startswith(kind)
        }
        figures |= {
            f"{kind}: {n}": row for n, row in _table(runs, PLAIN, f"methods, {kind}", out).items()
        }

    for part, baseline, title in (
        ("few-speakers", PLAIN, "a tenth of the training speakers, ten times as much of each"),
        ("scarce-speakers", PLAIN, "a tenth of the training speakers, 60 utterances of each"),
        ("ablations", REFERENCE, "ablations (Table X)"),
        ("training-sizes", REFERENCE, "set size in training and test (Fig. 8)"),
    ):
        runs = {job: scores for job, scores in found.items() if job.kind == part}
        figures |= {
            f"{part}: {name}": row for name, row in _table(runs, baseline, title, out).items()
        }

    for kind, title in (
        (
            "normalization",
            "logistic regression on statistics standardized by nobody, the speaker, a wrong one",
        ),
        ("set-sizes", "utterances in a set at test, 0: all"),
        ("pldc", "PLDC, A-CCC in percent"),
    ):
        rows = [scores for job, scores in found.items() if job.kind == kind]
        if rows:
            figures[kind] = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
            out.write(f"\n{title}, mean of {len(rows)} runs, difference to the first\n")
            for name in rows[0]:
                mine, first = (
                    [row[name] for row in rows],
                    [next(iter(row.values())) for row in rows],
                )
                out.write(f"{name:>14s} {statistics.mean(mine):5.1f}{_difference(mine, first)}\n")

    print_result("personalization", figures)


def _table(
    runs: Mapping[Job, Scores], baseline: str, title: str, out: TextIO
) -> dict[str, dict[str, object]]:
    """Write one line for each method, and return the rows.

    A line has mean and standard deviation, difference to the baseline and its p, and the controls.
    """
    rows: dict[str, dict[str, object]] = {}
    if runs:
        out.write(f"\n{title}\n")

    base = {
        (job.corpus, job.seed): scores["same"]
        for job, scores in runs.items()
        if job.name == baseline
    }

    for name in dict.fromkeys(job.name for job in runs):
        mine = {(job.corpus, job.seed): scores for job, scores in runs.items() if job.name == name}
        own = [scores["same"] for scores in mine.values()]
        row: dict[str, object] = {
            "runs": len(own),
            "a_acc": statistics.mean(own),
            "std": _spread(own),
        }

        line = f"{name:24s} {row['a_acc']:5.1f} ± {row['std']:3.1f}"

        pairs = [(scores["same"], base[key]) for key, scores in mine.items() if key in base]
        if name != baseline and len(pairs) > 1:
            worlds = _world_means(
                {key: scores["same"] - base[key] for key, scores in mine.items() if key in base}
            )
            row |= {"gain": statistics.mean(one - other for one, other in pairs), "worlds": worlds}
            line += _difference(*zip(*pairs, strict=True))
            line += f", worlds {' '.join(f'{gain:+.1f}' for gain in worlds)}"

        for other in ("f1", "eights", *CONTROLS, "codes"):
            values = [scores[other] for scores in mine.values() if other in scores]
            if values:
                row[other] = statistics.mean(values)
                line += f"  {other} {row[other]:.1f}"

        rows[name] = row
        out.write(line + "\n")

    return rows


def _difference(mine: Sequence[float], others: Sequence[float]) -> str:
    """Show the mean of paired differences and its p; nothing if they are the same runs."""
    gains = [one - other for one, other in zip(mine, others, strict=True)]
    if len(gains) < 2 or not any(gains):
        return ""
    return f"  {statistics.mean(gains):+5.1f} (p {ttest_rel(mine, others).pvalue:.4f})"


def _world_means(gains: Mapping[tuple[str, int], float]) -> list[float]:
    """Compute the mean gain in each world, over its training seeds."""
    worlds = sorted({world for world, _ in gains})
    return [
        statistics.mean(gain for (world, _), gain in gains.items() if world == mine)
        for mine in worlds
    ]


def _spread(values: Iterable[float]) -> float:
    return float(np.std(list(values)))


if __name__ == "__main__":
    main()

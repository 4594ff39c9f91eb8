"""Compares labeling on a CPU with one `transformers.pipeline` call per file.

The model has the size of HuBERT base.

`python -m tests.benchmarks.labeling.against_pipeline [--utterances 30] [--layers 12] [--repeats 5]`

For a first try, 4 utterances and 2 layers are enough.

The pipeline computes with every core. Our side is what `emostream label` starts on a machine
without a GPU: one single-threaded worker a core, each labeling windows of its own shards. Ray is
left out here, because `ray_overhead` measures its share. On a CPU workers beat batches: padded
length buckets cost 1.3 times the pipeline's time, because padding is computed too. On both sides,
sounds lie decoded in memory and the time to load the models does not count. Rounds alternate
between the pipeline, our float32 and our bfloat16. Measure on a quiet machine: a busy one slows the
pipeline most, whose threads wait for each other, and the ratios come out too good.

Two differences are measured over all probabilities. Our float32 against the pipeline's is rounding,
and our bfloat16 against our float32 is the price of the speed. The weights are random, and the head
is as wide as a trained one's; on a real checkpoint `max_drift` bounds the second difference.

Both sides multiply the same matrices with one library. So the float32 ratio is limited by the share
of the pipeline's time in which its threads wait for each other, and by the layout copies that
`actors/inference/channels_last.py` saves.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from shards.emotions import NUM_EMOTIONS
from tests.benchmarks.labeling.panel_runs import (
    label_all,
    load_panel,
    load_pipeline,
    make_utterances,
    pipeline_all,
    timed,
    total_seconds,
)
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.checkpoints import write_hubert

PIPELINE, FLOAT32, BFLOAT16 = "pipeline", "workers, float32", "workers, bfloat16"
PRECISIONS = {FLOAT32: "float32", BFLOAT16: "bfloat16"}
# Ratios to the pipeline; that of bfloat16 holds where the processor multiplies it in hardware.
TARGETS = {FLOAT32: 1.15, BFLOAT16: 2.5}
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")

_panels: dict[str, Panel] = {}  # like `_sounds`, loaded by the initializer of a worker process
_sounds: list[Utterance] = []


class Workers:
    """One single-threaded process a core, which holds its panels and its share of utterances."""

    def __init__(self, checkpoint: Path, shares: Sequence[Sequence[int]]) -> None:
        self._shares = shares
        spawn = get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(
                1, mp_context=spawn, initializer=_load, initargs=(str(checkpoint), share)
            )
            for share in shares
        ]

    def label(self, precision: str) -> NDArray[np.float32]:
        """Compute the probabilities [N, 7] of all utterances."""
        running = [pool.submit(_label, precision) for pool in self._pools]
        rows = np.empty((sum(map(len, self._shares)), NUM_EMOTIONS), dtype=np.float32)
        for share, future in zip(self._shares, running, strict=True):
            rows[np.asarray(share)] = future.result()
        return rows

    def close(self) -> None:
        """Stop the processes."""
        for pool in self._pools:
            pool.shutdown()


def equal_shares(utterances: Sequence[Utterance], num_shares: int) -> list[list[int]]:
    """Deal out the utterances, longest first, each to the share that has least so far.

    A job's many shards even out in the same way.
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    seconds = [0.0] * num_shares

    for number in sorted(
        range(len(utterances)), key=lambda number: -total_seconds(utterances[number : number + 1])
    ):
        least = seconds.index(min(seconds))
        shares[least].append(number)
        seconds[least] += total_seconds(utterances[number : number + 1])

    return shares


def _load(checkpoint: str, share: Sequence[int]) -> None:
    utterances = make_utterances(max(share) + 1)
    _sounds.extend(utterances[number] for number in share)
    for precision in PRECISIONS.values():
        _panels[precision] = load_panel(Path(checkpoint), precision, num_threads=1)


def _label(precision: str) -> NDArray[np.float32]:
    return label_all(_panels[precision], _sounds)


def bfloat16_instructions() -> list[str]:
    """Return the instruction sets for bfloat16 that this processor has."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return [name for name in BFLOAT16_INSTRUCTIONS if name in flags]


def main() -> None:
    """Make the model and the sounds, label them each way in turn, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=30, help="utterances a round")
    parser.add_argument(
        "--layers", type=int, default=12, help="transformer layers; 12 is HuBERT base"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are compared")
    options = parser.parse_args()

    transformers_logging.disable_progress_bar()
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    utterances = make_utterances(options.utterances)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_hubert(Path(folder) / "hubert", num_layers=options.layers)
        seconds, probabilities = measure(checkpoint, utterances, cores, options.repeats)

    report(
        {name: statistics.median(times) for name, times in seconds.items()},
        probabilities,
        utterances,
        options,
    )


def measure(
    checkpoint: Path, utterances: list[Utterance], cores: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, NDArray[np.float32]]]:
    """Measure the seconds of every round of each side, and its last probabilities [N, 7]."""
    classify = load_pipeline(checkpoint, "cpu")
    workers = Workers(checkpoint, equal_shares(utterances, cores))
    seconds: dict[str, list[float]] = {PIPELINE: [], FLOAT32: [], BFLOAT16: []}
    probabilities: dict[str, NDArray[np.float32]] = {}

    try:
        # Every side runs once before the first round.
        for precision in PRECISIONS.values():
            workers.label(precision)
        pipeline_all(classify, utterances[:2])

        for _ in range(repeats):
            elapsed, probabilities[PIPELINE] = timed(pipeline_all, classify, utterances)
            seconds[PIPELINE].append(elapsed)
            for name, precision in PRECISIONS.items():
                elapsed, probabilities[name] = timed(workers.label, precision)
                seconds[name].append(elapsed)
    finally:
        workers.close()

    return seconds, probabilities


def report(
    medians: dict[str, float],
    probabilities: dict[str, NDArray[np.float32]],
    utterances: list[Utterance],
    options: argparse.Namespace,
) -> None:
    """Print the table and the line of JSON."""
    instructions = bfloat16_instructions()
    ratios = {name: medians[PIPELINE] / medians[name] for name in PRECISIONS}
    differences = {
        "float32 to pipeline": largest_difference(probabilities[FLOAT32], probabilities[PIPELINE]),
        "bfloat16 to float32": largest_difference(probabilities[BFLOAT16], probabilities[FLOAT32]),
    }

    sys.stdout.write(f"{machine()}; bfloat16 in hardware: {', '.join(instructions) or 'no'}\n")
    sound = total_seconds(utterances)
    sys.stdout.write(
        f"{len(utterances)} utterances, {sound:.0f} s of sound, {options.layers} layers, medians "
        f"of {options.repeats}, models already loaded\n"
    )

    for name, median in medians.items():
        sys.stdout.write(f"  {name:18s} {median:6.2f} s")
        sys.stdout.write(
            f"  ratio {ratios[name]:.2f} (target {TARGETS[name]})\n" if name in ratios else "\n"
        )
    for name, difference in differences.items():
        sys.stdout.write(f"  largest difference in a probability, {name}: {difference:.2g}\n")

    figures = {
        "seconds": medians,
        "ratios": ratios,
        "targets": TARGETS,
        "largest_difference": differences,
    }
    print_result("labeling", {**figures, "bfloat16_instructions": instructions})


def largest_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest difference between the probabilities of two sides."""
    return float(np.abs(one - other).max())


if __name__ == "__main__":
    main()

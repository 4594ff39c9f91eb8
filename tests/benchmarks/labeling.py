"""Labeling with a HuBERT-base-sized model on a CPU: our workers against one `transformers.pipeline` call per file.

The pipeline computes with every core. Ours are what `emostream label` starts on a machine without a GPU: one
single-threaded worker a core, each labeling windows of its own shards; here without Ray, whose share is measured by
`ray_overhead`. On a CPU workers beat batches: padded length buckets cost 1.3 times the pipeline's time, because padding
is computed too. Loading the models is left out on both sides. Precisions: float32 and bfloat16, with the largest
difference in any probability to the pipeline's.

The limit of the float32 ratio is the share of the pipeline's time in which its threads wait for each other: both sides
multiply the same matrices with the same library.
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

from actors.panel import Panel
from actors.precision import has_bfloat16
from shards.emotions import NUM_EMOTIONS
from shards.utterance import Utterance
from tests.benchmarks.checkpoints import write_hubert
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.panel_runs import (
    label_all,
    load_panel,
    load_pipeline,
    make_utterances,
    pipeline_all,
    timed,
    total_seconds,
)

_panels: dict[str, Panel] = {}  # of a worker process, as its sounds, loaded by its initialiser
_sounds: list[Utterance] = []


class Workers:
    """One single-threaded process a core, each with its panels and its share of the utterances loaded."""

    def __init__(self, checkpoint: Path, shares: Sequence[Sequence[int]]) -> None:
        self._shares = shares
        spawn = get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_load, initargs=(str(checkpoint), share))
            for share in shares
        ]

    def label(self, precision: str) -> NDArray[np.float32]:
        """Probabilities [N, 7] of all utterances."""
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
    """The utterances dealt out, longest first, to whoever has least: a job's many shards even out the same way."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    seconds = [0.0] * num_shares
    for number in sorted(range(len(utterances)), key=lambda number: -total_seconds(utterances[number : number + 1])):
        least = seconds.index(min(seconds))
        shares[least].append(number)
        seconds[least] += total_seconds(utterances[number : number + 1])
    return shares


def _load(checkpoint: str, share: Sequence[int]) -> None:
    utterances = make_utterances(max(share) + 1)
    _sounds.extend(utterances[number] for number in share)
    for precision in ("float32", "bfloat16"):
        _panels[precision] = load_panel(Path(checkpoint), precision, num_threads=1)


def _label(precision: str) -> NDArray[np.float32]:
    return label_all(_panels[precision], _sounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=30, help="utterances a round")
    parser.add_argument("--layers", type=int, default=12, help="transformer layers; 12 is HuBERT base")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are compared")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    utterances = make_utterances(options.utterances)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_hubert(Path(folder) / "hubert", num_layers=options.layers)
        seconds, drift = measure(checkpoint, utterances, cores, options.repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians["pipeline"] / median for name, median in medians.items()}
    sys.stdout.write(f"{machine()}, bfloat16 in hardware: {has_bfloat16(torch.device('cpu'))}\n")
    sound = total_seconds(utterances)
    sys.stdout.write(f"{len(utterances)} utterances, {sound:.0f} s of sound, medians of {options.repeats}\n")
    for name, median in medians.items():
        moved = f"  largest difference in a probability {drift[name]:.2g}" if name in drift else ""
        sys.stdout.write(f"  {name:18s} {median:6.2f} s  x{ratios[name]:.2f}{moved}\n")
    print_result("labeling", {"seconds": medians, "ratios": ratios, "largest_difference": drift})


def measure(
    checkpoint: Path, utterances: list[Utterance], cores: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round, and how far each precision moves a probability from the pipeline's."""
    classify = load_pipeline(checkpoint, "cpu")
    workers = Workers(checkpoint, equal_shares(utterances, cores))
    seconds: dict[str, list[float]] = {"pipeline": [], "workers, float32": [], "workers, bfloat16": []}
    drift: dict[str, float] = {}
    try:
        workers.label("float32")  # both sides have run once before the first round
        pipeline_all(classify, utterances[:2])
        for _ in range(repeats):
            elapsed, expected = timed(pipeline_all, classify, utterances)
            seconds["pipeline"].append(elapsed)
            for precision in ("float32", "bfloat16"):
                elapsed, found = timed(workers.label, precision)
                seconds[f"workers, {precision}"].append(elapsed)
                drift[f"workers, {precision}"] = float(np.abs(found - expected).max())
    finally:
        workers.close()
    return seconds, drift


if __name__ == "__main__":
    main()

"""Compares the panel on one device with one `transformers.pipeline` call per file.

The rates are audio-hours an hour, without Ray.

`python -m tests.benchmarks.labeling.panel_gpu [--size base|large] [--utterances N] [--layers N]
[--repeats 5]`

It needs only torch and transformers (no Ray, no codec): the sounds are decoded, as readers pass
them on. On a GPU the panel forms length buckets under its token budget. On a CPU, where batches
lose, it takes single utterances, and this script then runs a smaller model on less sound, so that
it can be tried anywhere.

The GPU-busy share is the time in which at least one kernel ran, over wall time. It comes from a
separate profiled pass (`torch.profiler`, merged intervals of what ran on the device); the timed
rounds are not profiled. Profiling slows the Python that feeds the GPU, so the share is a lower
bound, and a faster feeder could gain at most the rest to 100 %. A CPU has no such share. Peak
memory is what torch allocated on the GPU, or the process's resident set on a CPU, over the whole
run: the models in both precisions and the pipeline's. No time contains loading.

Differences are over all probabilities: float32 against the pipeline's (rounding), bfloat16 against
float32 (the price of its speed).
"""

import argparse
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from tests.benchmarks.labeling.panel_runs import (
    label_all,
    load_panel,
    load_pipeline,
    make_utterances,
    pipeline_all,
    timed,
    total_seconds,
)
from tests.benchmarks.measuring import MIB, machine, print_result
from tests.benchmarks.training.checkpoints import SIZES, write_hubert

PRECISIONS = ("float32", "bfloat16")


def busy_share(panel: Panel, utterances: list[Utterance]) -> float:
    """Return the share of one pass's wall time in which a kernel ran."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        seconds, _ = timed(label_all, panel, utterances)

    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type.name == "CUDA"
    )

    # Kernels overlap, so only the time past the latest end so far is new.
    busy, reached = 0.0, float("-inf")
    for start, end in kernels:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)

    return busy / 1e6 / seconds


def main() -> None:
    """Make the model and the sounds, label them each way in turn, and print the comparison."""
    on_gpu = torch.cuda.is_available()

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="base", help="size of HuBERT")
    parser.add_argument(
        "--utterances", type=int, default=2000 if on_gpu else 16, help="utterances a round"
    )
    parser.add_argument(
        "--layers", type=int, default=None if on_gpu else 3, help="layers, if fewer than the size's"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are compared")
    options = parser.parse_args()

    transformers_logging.disable_progress_bar()
    device = "cuda" if on_gpu else "cpu"
    utterances = make_utterances(options.utterances)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_hubert(
            Path(folder) / "hubert", size=options.size, num_layers=options.layers
        )

        classify = load_pipeline(checkpoint, device)
        panels = {
            name: load_panel(checkpoint, name, torch.get_num_threads()) for name in PRECISIONS
        }
        seconds, probabilities = measure(classify, panels, utterances, options.repeats)
        busy = (
            {name: busy_share(panel, utterances) for name, panel in panels.items()}
            if on_gpu
            else {}
        )

    differences = {
        "float32 to pipeline": float(
            np.abs(probabilities["float32"] - probabilities["pipeline"]).max()
        ),
        "bfloat16 to float32": float(
            np.abs(probabilities["bfloat16"] - probabilities["float32"]).max()
        ),
    }

    hours = total_seconds(utterances) / 3600
    rates = {name: hours / (statistics.median(times) / 3600) for name, times in seconds.items()}
    report(options, rates, differences, busy)


def measure(
    classify: Any, panels: dict[str, Panel], utterances: list[Utterance], repeats: int
) -> tuple[dict[str, list[float]], dict[str, NDArray[np.float32]]]:
    """Measure the seconds of every round of each side, and its last probabilities [N, 7].

    The rounds of the sides alternate.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("pipeline", *panels)}
    probabilities: dict[str, NDArray[np.float32]] = {}

    for panel in panels.values():
        # Kernels are chosen and memory is reserved on first use.
        label_all(panel, utterances)
    pipeline_all(classify, utterances[:4])

    for _ in range(repeats):
        elapsed, probabilities["pipeline"] = timed(pipeline_all, classify, utterances)
        seconds["pipeline"].append(elapsed)
        for name, panel in panels.items():
            elapsed, probabilities[name] = timed(label_all, panel, utterances)
            seconds[name].append(elapsed)

    return seconds, probabilities


def report(
    options: argparse.Namespace,
    rates: dict[str, float],
    differences: dict[str, float],
    busy: dict[str, float],
) -> None:
    """Print the table and the line of JSON."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    depth = "all" if options.layers is None else options.layers

    sys.stdout.write(
        f"{machine()}; {device}; HuBERT {options.size}, {depth} layers, medians of "
        f"{options.repeats}\n"
    )

    for name, rate in rates.items():
        line = (
            f"  {name:10s} {rate:10.1f} audio-hours an hour  ratio {rate / rates['pipeline']:.2f}"
        )
        sys.stdout.write(line + (f"  GPU busy {busy[name]:.0%}" if name in busy else "") + "\n")
    for name, difference in differences.items():
        sys.stdout.write(f"  largest difference in a probability, {name}: {difference:.2g}\n")

    peak = peak_mib()
    sys.stdout.write(f"  peak memory {peak:.0f} MiB\n")

    figures = {
        "device": device,
        "size": options.size,
        "layers": options.layers,
        "audio_hours_an_hour": rates,
    }
    print_result(
        "panel_gpu",
        {**figures, "largest_difference": differences, "gpu_busy": busy, "peak_mib": peak},
    )


def peak_mib() -> float:
    """Return torch's peak on a GPU, or else this process's largest resident set.

    Linux gives the resident set in KiB.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

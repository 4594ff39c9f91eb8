"""The panel without Ray on one device: audio-hours per hour, against one `transformers.pipeline` call per file.

Needs torch and transformers only (no Ray, no codec): decoded sound goes in, as readers hand it over. On a GPU the panel
forms length buckets under its token budget; on a CPU, where batches lose, it takes single utterances, and this script
then runs a smaller model on less sound, so that it can be tried anywhere.

GPU-busy share: time during which at least one kernel ran, over wall time, from a separate profiled pass
(`torch.profiler`, merged kernel intervals); the timed rounds are not profiled. What is missing to 100 % is the limit a
faster feeder could reach.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from actors.panel import Panel
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

PRECISIONS = ("float32", "bfloat16")


def busy_share(panel: Panel, utterances: list[Utterance]) -> float:
    """Share of the wall time of one pass in which a kernel ran."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        seconds, _ = timed(label_all, panel, utterances)
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, reached = 0.0, float("-inf")
    for start, end in kernels:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6 / seconds


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=2000 if on_gpu else 16)
    parser.add_argument("--layers", type=int, default=12 if on_gpu else 3, help="transformer layers; 12 is HuBERT base")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    device = "cuda" if on_gpu else "cpu"
    utterances = make_utterances(options.utterances)
    hours = total_seconds(utterances) / 3600
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_hubert(Path(folder) / "hubert", num_layers=options.layers)
        classify = load_pipeline(checkpoint, device)
        panels = {name: load_panel(checkpoint, name, torch.get_num_threads()) for name in PRECISIONS}
        seconds: dict[str, list[float]] = {name: [] for name in ("pipeline", *PRECISIONS)}
        drift = dict.fromkeys(PRECISIONS, 0.0)
        for panel in panels.values():
            label_all(panel, utterances)  # kernels are chosen and memory is reserved on first use
        pipeline_all(classify, utterances[:4])
        for _ in range(options.repeats):
            elapsed, expected = timed(pipeline_all, classify, utterances)
            seconds["pipeline"].append(elapsed)
            for name, panel in panels.items():
                elapsed, found = timed(label_all, panel, utterances)
                seconds[name].append(elapsed)
                drift[name] = float(np.abs(found - expected).max())
        busy = {name: busy_share(panel, utterances) for name, panel in panels.items()} if on_gpu else {}
    report(hours, {name: statistics.median(times) for name, times in seconds.items()}, drift, busy)


def report(hours: float, medians: dict[str, float], drift: dict[str, float], busy: dict[str, float]) -> None:
    """The table, and the line of JSON."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    sys.stdout.write(f"{machine()}; {device}\n")
    rates = {name: hours / (median / 3600) for name, median in medians.items()}
    for name, rate in rates.items():
        line = f"{name:10s} {rate:10.1f} audio-hours an hour  x{rate / rates['pipeline']:.2f}"
        line += f"  largest difference in a probability {drift[name]:.2g}" if name in drift else ""
        sys.stdout.write(line + (f"  GPU busy {busy[name]:.0%}" if name in busy else "") + "\n")
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    figures = {"device": device, "audio_hours_an_hour": rates, "gpu_busy": busy, "peak_gpu_mib": peak}
    print_result("panel_gpu", {**figures, "largest_difference": drift})


if __name__ == "__main__":
    main()

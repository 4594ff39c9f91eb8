"""What the benchmarks share: medians, the machine's name, and a command's time and memory."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import ROOT

SAMPLE_INTERVAL_SECONDS = 0.2
MIB = 2**20


@dataclass(frozen=True, slots=True)
class CommandRun:
    """One finished command: its wall time, and the peak of its process tree's memory.

    `peak_bytes` sums proportional set sizes over the whole tree; `peak_by_title` holds the largest
    process of each kind.
    """

    seconds: float
    peak_bytes: int
    peak_by_title: dict[str, int]


def machine() -> str:
    """Return processor and cores, for the record beside a figure."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Measure the median wall time of `repeats` calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def emostream(*arguments: str) -> None:
    """Run one command from the checkout, and show it and its output."""
    sys.stdout.write(f"$ emostream {' '.join(arguments)}\n")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "cluster", *arguments], cwd=ROOT, check=True)


def run_command(arguments: Sequence[str], *, log: Path) -> CommandRun:
    """Run `python -m cluster ARGUMENTS` from the checkout and watch its memory.

    Raises RuntimeError when the command fails.
    """
    started = time.perf_counter()
    peak, by_title = 0, dict[str, int]()

    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster", *arguments], cwd=ROOT, stdout=stream, stderr=stream
        )

        while process.poll() is None:
            sizes = _tree_memory(process.pid)
            peak = max(peak, sum(size for _, size in sizes))
            for title, size in sizes:
                by_title[title] = max(by_title.get(title, 0), size)
            time.sleep(SAMPLE_INTERVAL_SECONDS)

    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} exited with {process.returncode}; see {log}")
    return CommandRun(time.perf_counter() - started, peak, by_title)


def print_result(name: str, figures: dict[str, object]) -> None:
    """Write the last line of a benchmark: one JSON object that a program can read."""
    sys.stdout.write(
        "RESULT " + json.dumps({"benchmark": name, "machine": machine(), **figures}) + "\n"
    )


def _tree_memory(pid: int) -> list[tuple[str, int]]:
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [measured for process in processes if (measured := _memory(process)) is not None]


def _memory(process: psutil.Process) -> tuple[str, int] | None:
    try:
        title = (process.cmdline() or [""])[0].rpartition("/")[2]
        return title.split(".")[0], process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None

"""Rows a second of `emostream import`, against a plain loop and against another checkout.

`python -m tests.benchmarks.labeling.import_rows [--num-rows 4000] [--repeats 5]
[--against CHECKOUT] [--one-size]`

The plain loop is the least an import can be: Python's `csv` reads the table, and `tarfile` writes
the files of each row behind each other, without a check, a plan, or a report. Another checkout is,
for example, `git worktree add ../before HEAD~5`. All read the same files, in the page cache, each
in a process of its own that measures itself after its imports; runs alternate, so that a busy
machine slows all, and medians are compared: of the wall clock, and of the processor's time, which
other work on the machine disturbs less. With `--one-size` all files have one size, so that each
could be a twin of any other. Prints a table and, as its last line, `RESULT {...}`.
"""

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from tests import ROOT
from tests.benchmarks.measuring import print_result

COLUMNS = ("clip", "audio", "transcript", "speaker", "emotion", "language", "session", "take")
TARGET_RATIO = 0.95
_IMPORT = """
import sys, time
from shards.importing.config import ImportConfig
from shards.importing.job import import_table
table, root, out = sys.argv[1:]
started, cpu_started = time.perf_counter(), time.process_time()
report = import_table(ImportConfig(table=table, root=root, out=out, num_workers=1))
print(report.num_imported, time.perf_counter() - started, time.process_time() - cpu_started)
"""
_PLAIN_LOOP = """
import sys, time
from tests.benchmarks.labeling.import_rows import plain_loop
started, cpu_started = time.perf_counter(), time.process_time()
rows = plain_loop(*sys.argv[1:])
print(rows, time.perf_counter() - started, time.process_time() - cpu_started)
"""


def plain_loop(table: str, root: str, out: str) -> int:
    """Write the sound and the other cells of each row into one tar; returns the number of rows."""
    os.makedirs(out)
    rows = 0
    with (
        open(table, newline="", encoding="utf-8") as stream,
        tarfile.open(os.path.join(out, "all.tar"), "w") as tar,
    ):
        for row in csv.DictReader(stream):
            rows += 1
            key, sound = row.pop("clip"), row.pop("audio")
            _add(tar, f"{key}{Path(sound).suffix}", Path(root, sound).read_bytes())
            _add(tar, f"{key}.json", json.dumps(row).encode())
    return rows


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(payload)
    tar.addfile(member, io.BytesIO(payload))


def make_corpus(folder: Path, num_rows: int, *, has_one_size: bool) -> None:
    """`num_rows` files of a second (WAV if they have one size, else FLAC), and their table."""
    random = np.random.default_rng(0)
    kind = "wav" if has_one_size else "flac"
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number in range(num_rows):
            sound = random.normal(0, 0.05, 16000).astype(np.float32)
            soundfile.write(folder / f"{number}.{kind}", sound, 16000, format=kind)
            words = f"it is what it is, said {number % 90} times"
            cells = [words, f"s{number % 50}", "happy", "en", "7", "1e5"]
            writer.writerow([f"clip-{number}", f"{number}.{kind}", *cells])


def seconds_of(
    code: str, checkout: Path, folder: Path, out: Path, num_rows: int
) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, of a run of `code` with modules of `checkout`."""
    arguments = [str(folder / "t.csv"), str(folder), str(out)]
    printed = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    imported, seconds, cpu_seconds = printed.split()
    if int(imported) != num_rows:
        raise SystemExit(f"{checkout}: got {imported} rows of {num_rows}; the comparison is void")
    return float(seconds), float(cpu_seconds)


def main() -> None:
    """Make a corpus, import it in each way in turn, print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-rows", type=int, default=4000, help="rows of the table")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; medians are compared")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--one-size", action="store_true", help="give all files the same size")
    arguments = parser.parse_args()

    ways = {"import": (_IMPORT, ROOT), "plain loop": (_PLAIN_LOOP, ROOT)}
    if arguments.against:
        ways["import of the other checkout"] = (_IMPORT, arguments.against.resolve())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_corpus(folder, arguments.num_rows, has_one_size=arguments.one_size)
        for repeat in range(arguments.repeats):
            for number, (name, (code, checkout)) in enumerate(ways.items()):
                out = folder / f"out-{repeat}-{number}"
                seconds[name].append(seconds_of(code, checkout, folder, out, arguments.num_rows))

    rates, cpu_rates = (
        {
            name: arguments.num_rows / statistics.median(pair[clock] for pair in pairs)
            for name, pairs in seconds.items()
        }
        for clock in (0, 1)
    )
    for name in ways:
        print(
            f"  {name:<28} {rates[name]:8.0f} rows/s, ratio of import "
            f"{rates['import'] / rates[name]:.2f}; by processor time {cpu_rates[name]:8.0f} "
            f"rows/s, ratio {cpu_rates['import'] / cpu_rates[name]:.2f}"
        )
    print_result(
        "import_rows",
        {
            "num_rows": arguments.num_rows,
            "has_one_size": arguments.one_size,
            "rows_per_second": rates,
            "rows_per_processor_second": cpu_rates,
            "target_ratio_against_another_checkout": TARGET_RATIO,
        },
    )


if __name__ == "__main__":
    main()

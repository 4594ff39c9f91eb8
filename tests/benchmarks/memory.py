"""Peak memory of a labeling job at one and at ten times the corpus: more shards, and larger shards.

A job's memory is chunks in flight, one window and one shard's rows a labeler, whatever the corpus. Measured over the
job's own processes (driver, labelers, readers); Ray's services are shown beside them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

from shards.synthetic import write_corpus
from shards.synthetic_config import WorldConfig
from shards.synthetic_face import NUM_FACE_CUES
from tests.benchmarks.measuring import MIB, CommandRun, machine, print_result, run_command
from tests.small_world import write_checkpoints

OWN_PROCESSES = ("python", "python3", "ray::LabelerActor", "ray::ReaderActor")


def own_peak(run: CommandRun) -> int:
    """Sum of the largest driver, labeler and reader."""
    return sum(size for title, size in run.peak_by_title.items() if title.startswith(OWN_PROCESSES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--speakers", type=int, default=20, help="speakers of the small corpus; the large has ten times"
    )
    options = parser.parse_args()
    runs: dict[str, CommandRun] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        panel = folder / "panel.yaml"
        panel.write_text(yaml.safe_dump(write_checkpoints(folder / "checkpoints", num_face_values=NUM_FACE_CUES)))
        corpora = {"1x": (1, 5), "10x, more shards": (10, 5), "10x, larger shards": (10, 50)}
        for what, (factor, per_shard) in corpora.items():
            shards = folder / what.replace(", ", "-").replace(" ", "-")
            speakers = range(options.speakers * factor)
            write_corpus(
                WorldConfig(seed=1), str(shards), speakers=speakers, speakers_per_shard=per_shard, num_workers=2
            )
            command = ["label", "--shards", f"{shards}/*.tar", "--out", f"{shards}-out", "--panel", str(panel)]
            runs[what] = run_command(command, log=folder / "log")
    sys.stdout.write(f"{machine()}\n")
    base = own_peak(runs["1x"])
    for what, run in runs.items():
        own = own_peak(run)
        sys.stdout.write(
            f"{what:20s} own processes {own / MIB:7.0f} MiB  x{own / base:.3f}  all {run.peak_bytes / MIB:7.0f} MiB\n"
        )
    growth = {what: round(own_peak(run) / base - 1, 4) for what, run in runs.items()}
    print_result("memory", {"own_mib": {w: own_peak(r) // MIB for w, r in runs.items()}, "growth": growth})


if __name__ == "__main__":
    main()

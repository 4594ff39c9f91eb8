"""Compares the peak memory of a labeling job on a corpus with that on ten times the corpus.

The larger corpus has either more shards or larger shards. A job's memory is chunks in flight, one
window and one shard's rows for each labeler, whatever the size of the corpus. It is measured over
the job's own processes (driver, labelers, readers); Ray's services are shown beside them. Target:
at most +10 %.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import yaml

from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from shards.synthetic.face import NUM_FACE_CUES
from tests.benchmarks.measuring import MIB, CommandRun, machine, print_result, run_command
from tests.worlds.small import write_checkpoints

TARGET_GROWTH = 0.10
OWN_PROCESSES = ("python", "python3", "ray::LabelerActor", "ray::ReaderActor")


def own_peak(run: CommandRun) -> int:
    """Add up the largest driver, labeler and reader."""
    return sum(size for title, size in run.peak_by_title.items() if title.startswith(OWN_PROCESSES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--speakers",
        type=int,
        default=20,
        help="speakers of the small corpus; the large has ten times",
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    runs: dict[str, list[CommandRun]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        panel = folder / "panel.yaml"
        panel.write_text(
            yaml.safe_dump(write_checkpoints(folder / "checkpoints", num_face_values=NUM_FACE_CUES))
        )

        corpora = {"1x": (1, 5), "10x, more shards": (10, 5), "10x, larger shards": (10, 50)}
        for what, (factor, per_shard) in corpora.items():
            shards = folder / what.replace(", ", "-").replace(" ", "-")
            speakers = range(options.speakers * factor)
            write_corpus(
                WorldConfig(seed=1),
                str(shards),
                speakers=speakers,
                speakers_per_shard=per_shard,
                num_workers=2,
            )

            command = ["label", "--shards", f"{shards}/*.tar", "--panel", str(panel)]
            runs[what] = [
                run_command([*command, "--out", f"{shards}-out-{repeat}"], log=folder / "log")
                for repeat in range(options.repeats)
            ]

    own = {what: statistics.median(map(own_peak, of)) for what, of in runs.items()}
    growth = {what: round(peak / own["1x"] - 1, 4) for what, peak in own.items()}

    sys.stdout.write(f"{machine()}, medians of {options.repeats}\n")
    for what, of in runs.items():
        everything = statistics.median(run.peak_bytes for run in of)
        sys.stdout.write(
            f"{what:20s} own processes {own[what] / MIB:7.0f} MiB  {growth[what]:+.1%} (target: at "
            f"most {TARGET_GROWTH:+.0%})  all {everything / MIB:7.0f} MiB\n"
        )

    own_mib = {what: round(peak / MIB) for what, peak in own.items()}
    print_result(
        "memory",
        {"own_mib": own_mib, "growth": growth, "target": TARGET_GROWTH, "repeats": options.repeats},
    )


if __name__ == "__main__":
    main()

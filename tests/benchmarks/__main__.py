"""`make bench` runs every benchmark in turn; each prints a table and a last line of JSON."""

import subprocess
import sys

from tests import ROOT

BENCHMARKS = (
    "labeling.import_rows",
    "labeling.tar_reading",
    "labeling.sound_decoding",
    "labeling.against_pipeline",
    "labeling.panel_gpu",
    "labeling.predict_against_pipeline",
    "labeling.ray_overhead",
    "labeling.memory",
    "labeling.ravdess_labels",
    "labeling.missing_emotions",
    "labeling.labels_kept",
    "training.against_plain_loop",
    "training.training_gpu",
    "training.pretraining",
    "training.pretraining_throughput",
    "training.rating_votes",
    "serving.speakers",
    "serving.speaker_service",
)


def main() -> int:
    chosen = sys.argv[1:] or BENCHMARKS
    failed = []

    for name in chosen:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        if subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}"], cwd=ROOT, check=False
        ).returncode:
            failed.append(name)

    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

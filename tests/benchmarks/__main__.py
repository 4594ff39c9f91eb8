"""`make bench`: every benchmark in turn, each with its table and a last line of JSON."""

import subprocess
import sys

from tests import ROOT

BENCHMARKS = (
    "tar_reading",
    "labeling",
    "panel_gpu",
    "ray_overhead",
    "memory",
    "ravdess_labels",
    "training",
    "training_gpu",
    "speakers",
    "speaker_service",
)


def main() -> int:
    chosen = sys.argv[1:] or BENCHMARKS
    failed = []
    for name in chosen:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

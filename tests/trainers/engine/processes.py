"""Training runs in processes of their own, which can be killed, and the curves they leave."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT


def losses(out: Path, name: str = "loss") -> dict[int, float]:
    """Read what the run in `out` logged as `name`, by step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def start(
    values: dict[str, Any], folder: Path, *, workers: int = 1, dying_at: str = ""
) -> subprocess.Popen[bytes]:
    """Start a run of the options `values`, which are written to `folder`; see `dying_run`."""
    options = folder / "options.yaml"
    options.write_text(yaml.safe_dump(values))

    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(workers)] if workers > 1 else []
    )

    training = ["cluster", "train", "--config", str(options)]
    if dying_at:
        training = ["tests.trainers.engine.dying_run", str(options), *dying_at.split()]

    command = [sys.executable, *launcher, "-m", *training]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait until the run has ended well."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output.decode()[-3000:]


def die(process: subprocess.Popen[bytes], *, workers: int = 1) -> None:
    """Wait until the run was killed; torchrun, which starts several workers, then fails."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == (-signal.SIGKILL if workers == 1 else 1), output.decode()[-3000:]

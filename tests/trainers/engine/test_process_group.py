"""Training starts on any machine, even without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests import ROOT
from tests.trainers.engine.test_run import read_result
from tests.worlds.training import small_values, write_training_world


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="the extension in question is built on machines without a GPU"
)
def test_a_machine_without_a_compiler_trains(tmp_path: Path) -> None:
    """DeepSpeed does without its extension when PATH is empty and nothing was compiled before."""
    shards = write_training_world(tmp_path / "packed")

    options = tmp_path / "options.yaml"
    values = small_values(
        shards, tmp_path / "run", "finetune", num_steps=2, validate_every=2, checkpoint_every=2
    )
    options.write_text(yaml.safe_dump(values))

    environment = os.environ | {
        "PATH": str(tmp_path),
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }

    done = subprocess.run(
        [sys.executable, "-m", "cluster", "train", "--config", str(options)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert read_result(tmp_path / "run").steps == 2

"""The demo as a newcomer runs it, on a corpus too small to show anything."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.demo.demo import KINDS, DemoConfig, make_corpus, refuse_other_demo
from tests import ROOT

SIZES = {"labeled_speakers": 10, "unlabeled_speakers": 12, "num_steps": 3, "min_per_speaker": 1}
TEACHER_STEPS = 60


def begin_demo(out: Path) -> None:
    """Make what an interrupted demo leaves: the corpus and the teachers.

    These teachers are trained for fewer steps than the demo's own.
    """
    from trainers.teachers.inputs import read_training_utterances
    from trainers.teachers.train import TeacherConfig, train_teacher

    config = DemoConfig(out=str(out), **SIZES)
    refuse_other_demo(config, out)
    make_corpus(config, out)
    utterances = read_training_utterances(f"{out}/corpus/labeled/*.tar", tuple(KINDS.values()))
    for name, kind in KINDS.items():
        teacher = replace(TeacherConfig.for_kind(kind), num_steps=TEACHER_STEPS)
        train_teacher(kind, utterances, teacher, out / "teachers" / name)


def run_demo(out: Path, root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cluster", "demo", "--out", str(out), *options]
    for name, value in SIZES.items():
        command += ["--set", f"{name}={value}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def models(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_in_a_report_and_two_models(tmp_path: Path) -> None:
    """An interrupted demo finishes what is missing; a finished one makes nothing again."""
    out = tmp_path / "demo"
    begin_demo(out)
    teachers = models(out)

    first = run_demo(out, ROOT)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "both, where they agree" in first.stdout
    assert "<h1>" in (out / "report.html").read_text()

    labeled = json.loads((out / "predictions" / "label-summary.json").read_text())
    selected = json.loads((out / "selection" / "summary.json").read_text())
    assert labeled["num_utterances"] == selected["num_utterances"] > selected["num_kept"] > 0
    for recipe in ("finetune", "setpeer"):
        assert f"\n{recipe} " in first.stdout

    made = models(out)
    assert teachers.items() < made.items()

    again = run_demo(out, ROOT)
    assert again.returncode == 0, again.stderr[-3000:]
    assert models(out) == made
    assert json.loads((out / "predictions" / "label-summary.json").read_text())["num_labeled"] == 0


def test_a_folder_holds_one_demo(tmp_path: Path) -> None:
    """A demo with another seed is refused in the same folder, before anything is made."""
    refuse_other_demo(DemoConfig(out=str(tmp_path), **SIZES), tmp_path)
    other = run_demo(tmp_path, ROOT, "--seed", "1")
    assert other.returncode == 2
    assert "holds a demo with other options" in other.stderr

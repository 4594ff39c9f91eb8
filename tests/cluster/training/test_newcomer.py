"""The README's five commands, as it prints them, from a folder of recordings to predictions."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from cluster.cli import main
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.synthetic.voice import SHOWN_BY_VOICE, Voice, synthesize
from tests import ROOT

HEADING = "## Your own recordings, in five commands"
# The letters of EmoDB, in the order of SHOWN_BY_VOICE; boredom takes the place of surprise.
LETTERS = "NWEAFTL"
CLASSES = {"neutral", "anger", "disgust", "fear", "happiness", "sadness", "boredom"}
SPEAKERS = ("03", "08", "09", "10", "11")


def printed_commands() -> list[str]:
    """Read the commands out of the README."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return re.split(r"^(?=emostream )", block, flags=re.MULTILINE)


def write_recordings(folder: Path) -> None:
    """Write a recording of each class by each speaker, named as EmoDB names them."""
    folder.mkdir()
    for number, speaker in enumerate(SPEAKERS):
        rng = np.random.default_rng(number)
        voice = Voice(f0_center_hz=110 + 25 * number, tract_scale=1 + 0.04 * number)
        for letter, cues in zip(LETTERS, SHOWN_BY_VOICE, strict=True):
            sound = synthesize(voice, cues, 0.6, 20.0, rng)
            soundfile.write(folder / f"{speaker}a01{letter}a.wav", sound, SAMPLE_RATE_HZ)


def words(command: str, bin_folder: Path) -> list[str]:
    """Let the shell divide a command into words, in the present folder."""
    if not bin_folder.exists():
        bin_folder.mkdir()
        (bin_folder / "emostream").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        (bin_folder / "emostream").chmod(0o755)
        (bin_folder / "python").symlink_to(sys.executable)

    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-e", "-c", command]
    done = subprocess.run(
        shell, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_there_are_five_commands() -> None:
    """The section prints the commands that it promises."""
    first = [command.split()[:2] for command in printed_commands()]
    named = [["emostream", name] for name in ("import", "train", "evaluate", "predict")]
    assert first == [["python", "-"], *named]


def test_they_lead_from_a_folder_of_recordings_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, they test each recording once and recognize a new file."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    write_recordings(Path("wav"))
    Path("new.wav").write_bytes(Path("wav/03a01Fa.wav").read_bytes())

    table, *commands = printed_commands()
    words(table, tmp_path / "bin")
    for command in commands:
        # In this process, because another would spend most of its time on imports.
        assert main(words(command, tmp_path / "bin")) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ACC +0\.\d{4}  \(95 % over speakers: ", said, flags=re.MULTILINE)

    metrics = json.loads(Path("runs/mine/evaluation/metrics.json").read_text())
    assert set(metrics["names"]) == CLASSES
    low, high = metrics["intervals"]["accuracy"]
    assert low <= metrics["scores"]["accuracy"] <= high
    tested = pq.read_table("runs/mine/evaluation/predictions.parquet")["key"].to_pylist()
    assert sorted(tested) == sorted(path.stem for path in Path("wav").iterdir())

    with Path("predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    scores = {name: float(row[f"score_{name}"]) for name in CLASSES}
    assert max(scores, key=scores.__getitem__) == row["label"]
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)

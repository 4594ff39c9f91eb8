"""Classes beyond the seven emotions, from packed shards to figures, through the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cluster.cli import main
from tests.worlds.small import write_shard
from tests.worlds.training import CLASSES, make_utterance, small_values

# What the third class of the training world is called instead.
OTHER = {"happiness": "Boredom"}


def write_world(folder: Path, label: object = None) -> str:
    """Three speakers a split with the classes neutral, anger and Boredom.

    `label` replaces the label of one training utterance.
    """
    for split in ("train", "validation", "test"):
        samples = [make_utterance(split, speaker, n) for speaker in range(3) for n in range(6)]
        samples = [
            replace(
                one,
                metadata={
                    name: OTHER.get(str(value), value) if name in ("label", "emotion") else value
                    for name, value in one.metadata.items()
                },
            )
            for one in samples
        ]
        if label is not None and split == "train":
            samples[0] = replace(samples[0], metadata=samples[0].metadata | {"label": label})
        write_shard(folder / f"{split}.tar", samples)
    return f"{folder}/*.tar"


def train(folder: Path, shards: str, **target: Any) -> int:
    torch.set_num_threads(1)
    values = small_values(shards, folder / "run", "finetune", num_steps=2, validate_every=2)
    values["data"]["target"] = target
    (folder / "options.yaml").write_text(yaml.safe_dump(values))
    return main(["train", "--config", str(folder / "options.yaml")])


def test_a_class_of_ones_own_is_learned_and_measured(tmp_path: Path) -> None:
    """A model answers with `boredom`, and the figures count it."""
    shards = write_world(tmp_path)
    assert train(tmp_path, shards) == 0
    command = ["evaluate", "--checkpoint", f"{tmp_path}/run/best", "--shards", shards]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["names"] == ["neutral", "anger", "boredom"]
    assert (found["number"], found["unknown_truths"]) == (18, {})
    assert [sum(row) for row in found["confusion"]] == [6, 6, 6]


def test_a_label_outside_the_classes_stops_or_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is an error with status 2; dropped on request, it is counted, named, and not measured."""
    shards = write_world(tmp_path)
    assert train(tmp_path, shards, classes=list(CLASSES[:2])) == 2
    error = capsys.readouterr().err
    assert "6 of 18 utterances of the split train" in error
    assert "boredom 6" in error
    assert "data.target.unknown=drop" in error

    assert train(tmp_path, shards, classes=list(CLASSES[:2]), unknown="drop") == 0
    assert "6 of 18 utterances of the split validation are left out: boredom 6" in caplog.text
    command = ["evaluate", "--checkpoint", f"{tmp_path}/run/best", "--shards", shards]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0
    assert "none of neutral, anger (boredom 6)" in capsys.readouterr().out


def test_labels_merged_in_training_are_merged_in_evaluation(tmp_path: Path) -> None:
    """The truth `Boredom` counts as neutral where the model learned it so."""
    shards = write_world(tmp_path)
    assert train(tmp_path, shards, merge={"boredom": "neutral"}) == 0
    command = ["evaluate", "--checkpoint", f"{tmp_path}/run/best", "--shards", shards]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [sum(row) for row in found["confusion"]] == [12, 6]


@pytest.mark.parametrize("label", [["anger"], False])
def test_a_label_that_cannot_be_read_is_no_matter_of_disks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], label: object
) -> None:
    """The error has status 2, names the sample and the column, and does not ask for room."""
    assert train(tmp_path, write_world(tmp_path, label)) == 2
    error = capsys.readouterr().err
    assert "train-0-000" in error
    assert "column `label`" in error
    assert "make room" not in error

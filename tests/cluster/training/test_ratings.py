"""Votes of people, from packed shards to figures, through the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from tests.worlds.small import write_shard
from tests.worlds.training import CLASSES, make_utterance, small_values


def write_world(folder: Path) -> str:
    """Three speakers a split, rated by voice and audio-visually, but for each one's first."""
    for split in ("train", "validation", "test"):
        samples = [make_utterance(split, speaker, n) for speaker in range(3) for n in range(6)]
        for number, one in enumerate(samples):
            own, next_ = CLASSES[number % 3], CLASSES[(number + 1) % 3]
            ratings = {"voice": {own: 4, next_: 3, "calm": 1}, "audiovisual": {own: 6, next_: 1}}
            if number % 6 == 0:
                ratings.pop("audiovisual")
            samples[number] = replace(one, metadata=one.metadata | {"ratings": ratings})
        write_shard(folder / f"{split}.tar", samples)
    return f"{folder}/*.tar"


@pytest.mark.parametrize("recipe", ["finetune", "setpeer"])
def test_ratings_are_learned_and_measured(
    tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model learns audio-visual votes, and is measured against them and against the voice's."""
    torch.set_num_threads(1)
    shards = write_world(tmp_path)
    values = small_values(shards, tmp_path / "run", recipe, num_steps=2, validate_every=2)
    values["data"]["target"] = {"kind": "ratings", "classes": list(CLASSES)}
    values.setdefault("model", {})["class_weights"] = "balanced"
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(tmp_path / "options.yaml")]) == 0

    command = ["evaluate", "--checkpoint", f"{tmp_path}/run/best", "--shards", shards]
    assert main([*command, "--out", f"{tmp_path}/out", "--groups", "demographics.sex"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["number"], found["num_without_truth"]) == (15, 3)
    assert found["truth"] == "audiovisual ratings"
    assert set(found["groups"]["demographics.sex"]) == {"female", "male"}
    assert "WF1" in capsys.readouterr().out

    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table["truth"].to_pylist()[:3] == [None, ["anger"], ["happiness"]]

    # 4/7 and 3/7 of the votes for the three classes are both above 1/3.
    assert main([*command, "--out", f"{tmp_path}/voice", "--stimulus", "voice"]) == 0
    table = pq.read_table(tmp_path / "voice" / "predictions.parquet")
    assert table["truth"].to_pylist()[0] == ["neutral", "anger"]
    assert json.loads((tmp_path / "voice" / "metrics.json").read_text())["number"] == 18

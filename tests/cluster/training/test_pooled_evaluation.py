"""Several personalized models measured together answer as each of them does alone."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from tests.cluster.training.test_folds import evaluate, metrics, write_world
from tests.worlds.training import small_values

CALIBRATED = ("--pldc", "mu", "--neighbors", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of SetPeER, one for each of three folds of six speakers."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pooled")
    shards = write_world(folder, lambda number: f"s{number}")
    values = small_values(shards, folder / "run", "setpeer", num_steps=2, validate_every=2)
    values["data"]["folds"] = "speaker:3"
    (folder / "options.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(folder / "options.yaml"), "--folds", "all"]) == 0
    return folder


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(folder / "out" / "predictions.parquet")
    return {row["key"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("options", [(), CALIBRATED], ids=["plain", "calibrated"])
def test_pooled_answers_are_those_of_each_fold(folder: Path, options: tuple[str, ...]) -> None:
    """Sets are made, and PLDC's training speakers are found, within each model's own fold."""
    runs = [f"{folder}/run/fold-{fold}/best" for fold in range(3)]
    alone: dict[str, dict[str, Any]] = {}
    for run in runs:
        assert evaluate(folder, f"{folder}/*.tar", run, options=options) == 0
        alone |= rows(folder)

    assert evaluate(folder, f"{folder}/*.tar", *runs, options=options) == 0
    pooled = rows(folder)
    assert len(pooled) == 36
    assert pooled.keys() == alone.keys()
    for key, row in pooled.items():
        scores = {name: value for name, value in row.items() if name.startswith("score_")}
        assert scores == pytest.approx({name: alone[key][name] for name in scores}, abs=1e-5)

    right = sum(row["truth"] == row["predicted"] for row in pooled.values())
    found = metrics(folder)
    assert found["scores"]["accuracy"] == pytest.approx(right / 36)
    assert (found["num_models"], found["num_speakers"]) == (3, 6)


def test_calibration_changes_the_pooled_answers(folder: Path) -> None:
    """Otherwise the test above would say nothing about PLDC."""
    runs = [f"{folder}/run/fold-{fold}/best" for fold in range(3)]
    answers = []
    for options in ((), CALIBRATED):
        assert evaluate(folder, f"{folder}/*.tar", *runs, options=options) == 0
        answers.append([row["score_anger"] for row in rows(folder).values()])
    assert answers[0] != pytest.approx(answers[1], abs=1e-3)

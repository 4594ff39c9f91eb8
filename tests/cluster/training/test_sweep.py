"""`emostream train --sweep`: what its file may say, and on Ray Tune, what its trials leave."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from cluster.training.sweep import as_read, read_sweep, with_options
from shards.config import ConfigError
from shards.config_values import from_mapping
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig

SWEEP = """
options:
  engine.learning_rate: {grid: [1e-4, 1e-2]}
  encoder.dropout: {uniform: [0, 0.5]}
trials: 1
scheduler: none
seed: 3
"""


def config(tmp_path: Path) -> TrainConfig:
    values = small_values("nowhere/*.tar", tmp_path / "run", "finetune", num_steps=2)
    return from_mapping(TrainConfig, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options: {engine.learning_rat: {grid: [1]}}", "unknown option learning_rat"),
        ("options: {nowhere.rate: {grid: [1]}}", "nowhere is not a group of options"),
        ("options: {model.hed: {choice: [linear]}}", "unknown option hed"),
        ("options: {model.head: {choice: [linear, round]}}", "model.head=round"),
        ("options: {engine.learning_rate: {uniform: [0.1, -1]}}", "expected .low, high."),
        ("options: {engine.learning_rate: {uniform: [-1, 0.1]}}", "engine.learning_rate=-1"),
        ("options: {engine.learning_rate: {loguniform: [0, 1]}}", "above 0"),
        ("options: {engine.learning_rate: {normal: [0, 1]}}", "expected one of uniform"),
        ("options: {engine.seed: {randint: [0, 1.5]}}", "expected int"),
        ("options: {out: {grid: [a, b]}}", "says where runs go"),
        ("options: {engine.seed: {grid: [1]}}\ntrails: 3", "unknown option trails"),
        ("options: {}", "expected at least one option"),
        ("- options", "expected a mapping"),
        ("options: {", "not readable as YAML"),
    ],
)
def test_a_bad_file_is_refused_before_anything_starts(
    tmp_path: Path, text: str, message: str
) -> None:
    """A wrong name, value or form is named, with the file."""
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        read_sweep(str(tmp_path / "sweep.yaml"), config(tmp_path))
    assert f"--sweep {tmp_path / 'sweep.yaml'}" in str(refused.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    """Numbers such as 1e-4, which are text to YAML, are numbers; grids multiply the draws."""
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("trials: 1", "trials: 3"))
    sweep = read_sweep(str(tmp_path / "sweep.yaml"), config(tmp_path))
    assert sweep.num_trials == 6

    assert as_read(config(tmp_path), "engine.learning_rate", "1e-4") == 1e-4
    assert as_read(config(tmp_path), "model.head", "linear") == "linear"
    run = with_options(config(tmp_path), {"engine.learning_rate": "1e-4"}, out="elsewhere")
    assert (run.engine.learning_rate, run.out, run.sweep) == (1e-4, "elsewhere", None)


def test_a_sweep_excludes_what_it_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither folds nor several workers a trial, said before Ray starts."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = ["train", "finetune", "--shards", "s", "--out", str(tmp_path / "out")]
    command += ["--sweep", str(tmp_path / "sweep.yaml")]
    assert main([*command, "--folds", "all", "--set", "data.folds=speaker:3"]) == 2
    assert "--folds and --sweep: give one of them" in capsys.readouterr().err
    assert main([*command, "--num-workers", "2", "--set", "engine.batches_per_step=2"]) == 2
    assert "--num-workers: got 2 with --sweep, expected 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_finds_the_best_options_by_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed trial is named and resumed; the best options, trained alone, give the same model."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "run"
    values = small_values(
        write_training_world(tmp_path / "packed"), out, "finetune", num_steps=6, validate_every=3
    )
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = ["train", "--config", str(tmp_path / "options.yaml")]
    sweep = [*command, "--sweep", str(tmp_path / "sweep.yaml")]

    # A folder lies where the second trial would write its metrics.
    (out / "trial-00001" / "metrics.jsonl").mkdir(parents=True)
    assert main(sweep) == 4
    assert "emostream train: trial-00001: " in capsys.readouterr().err
    (out / "trial-00001" / "metrics.jsonl").rmdir()
    assert main(sweep) == 2
    assert "add --resume to go on with that sweep" in capsys.readouterr().err
    assert main([*sweep, "--resume"]) == 0

    table = pq.read_table(out / "trials.parquet").to_pylist()
    assert {row["trial"]: row["engine.learning_rate"] for row in table} == {
        "trial-00000": 1e-4,
        "trial-00001": 1e-2,
    }
    for row in table:
        lines = (out / row["trial"] / "metrics.jsonl").read_text().splitlines()
        figures = [json.loads(line).get("validation_macro_f1", -1.0) for line in lines]
        assert row["objective"] == row["validation_macro_f1"] == max(figures)
    assert table[0]["objective"] >= table[1]["objective"]

    best = ["train", "--config", str(out / "best.yaml"), "--out", str(tmp_path / "again")]
    assert main(best) == 0
    again = (tmp_path / "again" / "best" / "model.safetensors").read_bytes()
    assert again == (out / table[0]["trial"] / "best" / "model.safetensors").read_bytes()

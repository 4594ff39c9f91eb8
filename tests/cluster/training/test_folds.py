"""Cross-validation and shared speakers, through the command line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance, small_values


def write_world(folder: Path, speaker: Callable[[int], str]) -> str:
    """Six speakers in all, two a split; `speaker` names them by their number."""
    for place, split in enumerate(("train", "validation", "test")):
        samples = []
        for number in (2 * place, 2 * place + 1):
            plain = [make_utterance(split, number, n) for n in range(6)]
            named = {"speaker": speaker(number)}
            samples += [replace(one, metadata=one.metadata | named) for one in plain]
        write_shard(folder / f"{split}.tar", samples)
    return f"{folder}/*.tar"


def train(folder: Path, shards: str, *options: str, **data: Any) -> int:
    torch.set_num_threads(1)
    values = small_values(shards, folder / "run", "finetune", num_steps=2, validate_every=2)
    values["data"] |= data
    (folder / "options.yaml").write_text(yaml.safe_dump(values))
    return main(["train", "--config", str(folder / "options.yaml"), *options])


def evaluate(folder: Path, shards: str, *checkpoints: str, options: tuple[str, ...] = ()) -> int:
    command = ["evaluate", "--checkpoint", *checkpoints, "--shards", shards]
    return main([*command, "--out", f"{folder}/out", *options])


def metrics(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "out" / "metrics.json").read_text())
    return loaded


def test_shared_speakers_are_refused_by_train_and_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A speaker of two splits is named; where it is allowed, output and page repeat it."""
    shards = write_world(tmp_path, lambda number: f"s{number % 5}")
    assert train(tmp_path, shards) == 2
    assert "1 speakers have utterances in several splits: 's0' in test and train" in (
        capsys.readouterr().err
    )

    assert train(tmp_path, shards, allow_shared_speakers=True) == 0
    assert evaluate(tmp_path, shards, f"{tmp_path}/run/best") == 0
    assert "1 speakers are in several splits" in capsys.readouterr().out
    assert metrics(tmp_path)["num_shared_speakers"] == 1
    assert "Shared speakers" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_model_that_knows_no_shared_speakers_is_measured_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards with shared speakers are refused by evaluate too, unless its option allows them."""
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = write_world(tmp_path / "good", lambda number: f"s{number}")
    bad = write_world(tmp_path / "bad", lambda number: f"s{number % 5}")
    assert train(tmp_path, good) == 0
    assert evaluate(tmp_path, bad, f"{tmp_path}/run/best") == 2
    assert "'s0' in test and train" in capsys.readouterr().err
    allowed = ("--allow-shared-speakers",)
    assert evaluate(tmp_path, bad, f"{tmp_path}/run/best", options=allowed) == 0


def test_a_model_of_a_fold_is_measured_on_its_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation makes the folds that training made; on other shards it refuses to guess."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards, folds="leave-one-speaker", fold=4) == 0
    assert evaluate(tmp_path, shards, f"{tmp_path}/run/best") == 0
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert set(table["speaker"].to_pylist()) == {"s4"}

    some = shards.replace("*", "test")
    assert evaluate(tmp_path, some, f"{tmp_path}/run/best") == 2
    assert "trained on folds (leave-one-speaker) of other shards" in capsys.readouterr().err
    assert evaluate(tmp_path, some, f"{tmp_path}/run/best", options=("--other-corpus",)) == 0


def test_all_folds_are_trained_and_measured_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every utterance is tested once, by the model that did not hear its speaker."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards, "--folds", "all", folds="speaker:3") == 0
    runs = [f"{tmp_path}/run/fold-{fold}/best" for fold in range(3)]
    assert f"--checkpoint {' '.join(runs)} --shards" in capsys.readouterr().out

    assert evaluate(tmp_path, shards, *runs) == 0
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert len(set(table["key"].to_pylist())) == len(table) == 36
    found = metrics(tmp_path)
    assert (found["number"], found["num_speakers"], found["num_models"]) == (36, 6, 3)
    right = pc.equal(table["truth"], table["predicted"]).to_pylist().count(True)
    assert found["scores"]["accuracy"] == pytest.approx(right / 36)

    # A fold that never began is trained, and the finished ones stay.
    before = Path(runs[0], "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "fold-2")
    assert train(tmp_path, shards, "--folds", "all", "--resume", folds="speaker:3") == 0
    assert Path(runs[0], "model.safetensors").read_bytes() == before
    assert Path(runs[2]).is_dir()
    assert evaluate(tmp_path, shards, runs[0], runs[0]) == 2
    assert "was tested by two of the models" in capsys.readouterr().err


def test_all_folds_need_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stated splits are no folds."""
    assert train(tmp_path, "nowhere/*.tar", "--folds", "all") == 2
    assert "data.folds is split, which makes no folds" in capsys.readouterr().err


def test_every_figure_has_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Output, metrics and page hold the interval over speakers, which contains the figure."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards) == 0
    assert evaluate(tmp_path, shards, f"{tmp_path}/run/best") == 0
    assert capsys.readouterr().out.count("95 % over speakers") == 7
    found = metrics(tmp_path)
    for name, (low, high) in found["intervals"].items():
        assert low <= found["scores"][name] <= high
    assert " to " in (tmp_path / "out" / "evaluation.html").read_text()


def test_figures_of_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each value of a field has the figures of its own utterances; a mistyped field is refused."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards) == 0
    run, field = f"{tmp_path}/run/best", "demographics.sex"
    assert evaluate(tmp_path, shards, run, options=("--groups", field)) == 0
    shown = capsys.readouterr().out
    assert "demographics.sex" in shown
    assert "By <bdi>demographics.sex</bdi>" in (tmp_path / "out" / "evaluation.html").read_text()

    # One of the two test speakers is a woman, the other a man.
    found = metrics(tmp_path)
    groups = found["groups"][field]
    for value, speaker in (("female", "s5"), ("male", "s4")):
        assert (groups[value]["number"], groups[value]["num_speakers"]) == (6, 1)
        own = found["per_speaker"][speaker]["accuracy"]
        assert groups[value]["scores"]["accuracy"] == pytest.approx(own)
        assert groups[value]["intervals"]["accuracy"] == [None, None]

    # Both groups are too small to judge, so that no difference is known.
    assert set(found["group_bias"][field].values()) == {None}
    small = ["female: 6 utterances of 1 speaker", "male: 6 utterances of 1 speaker"]
    assert found["fairness"]["fields"][field]["too_small"] == small
    assert f"left out of the differences: {'; '.join(small)}" in shown

    assert evaluate(tmp_path, shards, run, options=("--groups", "sexx")) == 2
    assert "--groups sexx: no utterance has this field" in capsys.readouterr().err

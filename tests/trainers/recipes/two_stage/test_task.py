"""`train two-stage` and `evaluate` on a small world with votes: models as one family of runs."""

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cluster.training.evaluate import evaluate
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import BatchReader
from tests import ROOT
from tests.worlds.rated import rated_config, rated_values, write_rated_world
from trainers.config import TrainConfig
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.models.trained import require_recognizer
from trainers.models.two_stage.loading import load_two_stage
from trainers.recipes.two_stage.model import TwoStageModel
from trainers.recipes.two_stage.task import TwoStageTask
from trainers.training import make_task, read_corpus, run_training

# The models that stage 2 needs: index in Table 1, and its options.
STAGE_1 = {
    "1": {"inputs": "audio", "labels": "voice"},
    "3": {"inputs": "audio", "labels": "audiovisual"},
    "5": {"inputs": "face", "labels": "face"},
    "6": {"inputs": "face", "labels": "audiovisual"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Shards, and a folder with the finished runs 1, 3, 5, 6 and 12."""
    folder = tmp_path_factory.mktemp("two-stage")
    shards = write_rated_world(folder / "shards")
    for name, options in STAGE_1.items():
        run_training(rated_config(shards, folder / name, **options))

    run_training(rated_config(shards, folder / "12", branches=branches(folder, "1356")))
    return shards, folder


def branches(folder: Path, names: str) -> list[str]:
    return [f"{folder}/{name}/best" for name in names]


def evaluated(shards: str, checkpoint: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The metrics of a checkpoint on the split test."""
    return evaluate(
        EvaluateConfig(checkpoint=(str(checkpoint),), shards=shards, out=str(out), **options)
    )


def test_a_branch_learns(world: tuple[str, Path], tmp_path: Path) -> None:
    """The loss falls, and answers to unknown speakers are far better than chance."""
    shards, folder = world
    lines = (folder / "5" / "metrics.jsonl").read_text().splitlines()
    losses = [values["loss"] for line in lines if "loss" in (values := json.loads(line))]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert evaluated(shards, folder / "5" / "best", tmp_path / "out")["scores"]["macro_f1"] > 0.6


def test_branches_stay_bitwise(world: tuple[str, Path]) -> None:
    """Stage 2 exports each branch and the common encoder as they were; only the rest is new."""
    _, folder = world
    joined = load_file(folder / "12" / "last" / "model.safetensors")
    for place, name in enumerate("1356"):
        alone = load_file(folder / name / "best" / "model.safetensors")
        for key, tensor in alone.items():
            moved = key.replace("branches.0.", f"branches.{place}.")
            assert torch.equal(joined[moved], tensor), moved

    assert {key.split(".")[0] for key in joined} == {"encoders", "branches", "shared"}
    assert not any(key.startswith("encoders.1.") for key in joined)


def test_branch_1_inside_12_gives_model_1_s_frames(world: tuple[str, Path]) -> None:
    """Bit for bit, on real batches of the test split."""
    shards, folder = world
    index = read_index(shards).split("test")
    rows = np.arange(8)
    batch = BatchReader(index, ["sound", "face"])[0, PlannedBatch(rows, rows)]

    joined, alone = (load_two_stage(str(folder / name / "best")) for name in ("12", "1"))
    with torch.inference_mode():
        frames, mask = joined.streams(batch.inputs)[0]
        expected, expected_mask = alone.streams(batch.inputs)[0]
    assert torch.equal(frames, expected)
    assert torch.equal(mask, expected_mask)


def test_12_answers_without_a_face_as_its_branches_of_sound(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """The mean of models 1 and 3, marked in predictions.parquet; others are answered jointly."""
    shards, folder = world

    def lame(sample: Any) -> Any:
        return replace(sample, face_features=None) if sample.key.endswith("0") else sample

    partly = write_rated_world(tmp_path / "partly", change=lame)
    metrics = evaluated(partly, folder / "12" / "best", tmp_path / "12")
    table = pq.read_table(tmp_path / "12" / "predictions.parquet").to_pylist()
    whole = evaluated(shards, folder / "12" / "best", tmp_path / "whole")
    scores = {
        name: {row["key"]: score_of(row) for row in read_rows(tmp_path / name)}
        for name in ("12", "whole")
    }
    for name in "13":
        evaluated(shards, folder / name / "best", tmp_path / name)
        scores[name] = {row["key"]: score_of(row) for row in read_rows(tmp_path / name)}

    assert metrics["answered_from"] == {"sound": 6, "sound+face": 30}
    assert whole["answered_from"] == {"sound+face": 36}
    for row in table:
        key = row["key"]
        is_lame = key.endswith("0")
        assert row["answered_from"] == ("sound" if is_lame else "sound+face")
        expected = (scores["1"][key] + scores["3"][key]) / 2 if is_lame else scores["whole"][key]
        np.testing.assert_allclose(scores["12"][key], expected, atol=1e-6)


def made_model(config: TrainConfig) -> TwoStageModel:
    """The model that a run begins with."""
    task = make_task(config, read_corpus(config))
    assert isinstance(task, TwoStageTask)
    return task.build_model()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "predictions.parquet").to_pylist()
    return rows


def score_of(row: dict[str, Any]) -> np.ndarray:
    return np.asarray([value for name, value in row.items() if name.startswith("score_")])


def test_models_7_to_9_train_both_branches_and_what_joins_them_in_one_step(
    world: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything but the kept encoder moves, and the number of parameters is told."""
    shards, _ = world
    caplog.set_level(logging.INFO)
    config = rated_config(shards, tmp_path / "run", inputs="both", labels="face")
    before = made_model(config).recognizer.state_dict()
    run_training(config)
    assert "parameters, of which" in caplog.text

    after = load_file(tmp_path / "run" / "last" / "model.safetensors")
    stayed = {key for key, tensor in after.items() if torch.equal(before[key], tensor)}
    buffers = {key for key in after if "feature_" in key}
    assert stayed == {key for key in after if key.startswith("encoders.")} | buffers

    model = load_two_stage(str(tmp_path / "run" / "best"))
    counts = model.config.parameter_counts
    assert counts["trained"] == counts["branches"] + counts["shared"]
    assert counts["all"] == sum(value.numel() for value in model.parameters())
    assert not model.config.branches_answer


def test_the_average_of_branches_needs_no_training(world: tuple[str, Path], tmp_path: Path) -> None:
    """Its answers are the mean of those of its branches, and it has no parameters of its own."""
    shards, folder = world
    config = rated_config(shards, tmp_path / "run", branches=branches(folder, "15"), join="average")
    run_training(config)

    index = read_index(shards).split("test")
    found = predict(load_recognizer(str(tmp_path / "run" / "best")), index).scores
    own = [predict(load_recognizer(path), index).scores for path in branches(folder, "15")]
    np.testing.assert_allclose(found, (own[0] + own[1]) / 2, atol=1e-6)
    assert load_two_stage(str(tmp_path / "run" / "best")).shared is None


def test_permuted_labels_are_those_of_others(world: tuple[str, Path], tmp_path: Path) -> None:
    """The control learns nothing: its macro-F1 is far below that of the same branch."""
    shards, folder = world
    run_training(
        rated_config(shards, tmp_path / "run", inputs="face", labels="face", permuted_labels=True)
    )
    found, real = (
        evaluated(shards, checkpoint / "best", tmp_path / "out")["scores"]["macro_f1"]
        for checkpoint in (tmp_path / "run", folder / "5")
    )
    assert found < real - 0.1


def test_a_trained_encoder_moves_and_each_branch_keeps_its_own(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """Two branches with different encoders bring both into stage 2."""
    shards, folder = world
    run_training(rated_config(shards, tmp_path / "3", **STAGE_1["3"], trains_encoder=True))
    names = [str(tmp_path / "3" / "best"), str(folder / "1" / "best")]
    run_training(rated_config(shards, tmp_path / "10", branches=names))
    model = load_two_stage(str(tmp_path / "10" / "best"))
    assert [branch.config.encoder for branch in model.branches] == [0, 1]
    assert len(model.encoders) == 2


def test_stage_2_takes_its_target_from_the_branches(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """As in the shortest command, which names the branches alone."""
    shards, folder = world
    values = rated_values(shards, tmp_path / "run", branches=branches(folder, "15"))
    del values["data"]["target"]
    run_training(from_mapping(TrainConfig, values))
    config = load_two_stage(str(tmp_path / "run" / "best")).config
    assert config.names == load_two_stage(branches(folder, "1")[0]).config.names
    assert config.trained_on["target"]["kind"] == "ratings"


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """Killed in step 15, resumed from the checkpoint of step 12: the same weights, bit for bit."""
    shards, folder = world
    values = rated_values(shards, tmp_path / "killed", branches=branches(folder, "1356"))
    options = tmp_path / "options.yaml"
    options.write_text(yaml.safe_dump(values))
    killed = subprocess.run(
        [sys.executable, "-m", "tests.trainers.engine.dying_run", str(options), "step", "15"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-3000:]

    run_training(replace(from_mapping(TrainConfig, values), resume=True))
    for name in ("best", "last"):
        resumed = load_file(tmp_path / "killed" / name / "model.safetensors")
        undisturbed = load_file(folder / "12" / name / "model.safetensors")
        for key, tensor in undisturbed.items():
            assert torch.equal(resumed[key], tensor), key


def test_a_branch_of_another_fold_is_refused(world: tuple[str, Path], tmp_path: Path) -> None:
    """It would know utterances that are tested; {fold} in a path names that of the run."""
    shards, _ = world
    data = {"folds": "speaker:3", "fold": 1}
    for name, fold in (("1", 0), ("1", 1), ("5", 1)):
        run_training(
            rated_config(
                shards,
                tmp_path / name / f"fold-{fold}",
                data=data | {"fold": fold},
                **STAGE_1[name],
            )
        )

    wrong = [f"{tmp_path}/1/fold-0/best", f"{tmp_path}/5/fold-1/best"]
    with pytest.raises(ConfigError, match="it would know utterances that are tested"):
        run_training(rated_config(shards, tmp_path / "run", data=data, branches=wrong))

    right = [f"{tmp_path}/{name}/fold-{{fold}}/best" for name in "15"]
    run_training(rated_config(shards, tmp_path / "run", data=data, branches=right))


def test_a_model_that_is_no_branch_is_refused(world: tuple[str, Path], tmp_path: Path) -> None:
    """The error names the folder and what is expected."""
    shards, folder = world
    for names, message in (
        (["12", "1"], "a model of 4 branches, expected one"),
        (["nothing", "1"], "no model of the recipe two-stage"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_training(
                rated_config(
                    shards, tmp_path / "run", branches=[f"{folder}/{name}/best" for name in names]
                )
            )

    with pytest.raises(ConfigError, match="two-stage, which `emostream evaluate` alone"):
        require_recognizer(str(folder / "12" / "best"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "got neither"),
        ({"model": {"inputs": "audio", "branches": ["a", "b"]}}, "got both"),
        ({"model": {"branches": ["a"]}}, "at least two branches"),
        ({"model": {"branches": ["a", "b"], "num_layers": 2}}, "model.num_layers: got a value"),
        ({"model": {"branches": ["a", "b"], "labels": "voice"}}, "audio-visual ratings"),
        ({"model": {"inputs": "audio", "join": "average"}}, "without model.branches"),
        ({"model": {"inputs": "audio", "kernel_size": 4}}, "odd number"),
        ({"model": {"inputs": "audio", "hidden_size": 30}}, "even multiple of num_heads"),
        ({"model": {"inputs": "audio", "class_weight_beta": 1.0}}, "between 0 and 1"),
        ({"model": {"inputs": "face"}, "encoder": {"num_layers": 2}}, "faces need none"),
        ({"data": {}}, "expected ratings"),
        ({"data": {"target": {"kind": "ratings"}, "modality": "face"}}, "leave it out"),
        ({"encoder": {"checkpoint": "x", "lora_rank": 4}}, "fine-tune one first"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The error names the option, and what to give instead."""
    values = rated_values("s/*.tar", tmp_path, inputs="audio", labels="voice")
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, values | {"encoder": {}} | changes)


def test_the_validation_loss_is_the_published_one(world: tuple[str, Path], tmp_path: Path) -> None:
    """Computed anew in numpy: from the answers of `best`, the votes in the json, and Cui's weights.

    The class weights come from the training utterances with more than a third of the votes.
    """
    shards, folder = world
    corpus = read_index(shards)
    train, validation = corpus.split("train"), corpus.split("validation")
    names = load_two_stage(str(folder / "1" / "best")).config.names
    shares = [voice_shares(index, names) for index in (train, validation)]

    counts = (shares[0] > 1 / 3).sum(axis=0)
    beta = (len(train) - 1) / len(train)
    weights = (1 - beta) / (1 - beta**counts)
    weights *= len(names) / weights.sum()

    answers = predict(load_recognizer(str(folder / "1" / "best")), validation).scores
    losses = [(weights @ p) * -(p @ np.log(q)) for p, q in zip(shares[1], answers, strict=True)]
    stated = json.loads((folder / "1" / "train.json").read_text())["best"]["loss"]
    assert np.mean(losses) == pytest.approx(stated, rel=1e-4)


def voice_shares(index: CorpusIndex, names: list[str]) -> np.ndarray:
    """Each utterance's share of the votes for each class, from its json."""
    votes = [json.loads(text)["ratings"]["voice"] for text in index.table["json"].to_pylist()]
    table = np.asarray([[one[name] for name in names] for one in votes], dtype=float)
    return table / table.sum(axis=1, keepdims=True)

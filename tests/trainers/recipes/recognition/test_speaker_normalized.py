"""The baseline trains without steps, is measured as others are, and needs the right speaker."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.cli import main
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample
from tests.worlds.small import write_shard
from tests.worlds.training import (
    CLASSES,
    make_utterance,
    small_values,
    write_training_world,
)
from trainers.config import TrainConfig
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.training import run_training


def make_loudness(split: str, speaker: int, number: int) -> Sample:
    """Make noise whose class is how loud it is for its speaker.

    Each speaker is twice as loud as the one before, and so is anger as neutral, so that loudness
    alone tells little.
    """
    rng = np.random.default_rng([speaker, number, len(split)])
    level = 0.01 * 2**speaker * 2 ** (number % len(CLASSES))
    noise = level * rng.uniform(-1, 1, SAMPLE_RATE_HZ // 3)

    made = make_utterance(split, speaker, number)
    return replace(made, audio=encode_flac(noise.astype(np.float32)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def values(shards: str, out: Path, **groups: Any) -> dict[str, Any]:
    groups["model"] = {"regularization": "0.01,0.001,10"} | groups.get("model", {})
    return {"recipe": "speaker-normalized", "shards": shards, "out": str(out), **groups}


def train(shards: str, out: Path, *options: str, **groups: Any) -> int:
    path = out.parent / "options.yaml"
    path.write_text(yaml.safe_dump(values(shards, out, **groups)))
    return main(["train", "--config", str(path), *options])


def evaluate(shards: str, run: Path, *options: str, name: str = "evaluation") -> dict[str, Any]:
    command = ["evaluate", "--checkpoint", f"{run}/best", "--shards", shards]
    assert main([*command, "--out", f"{run}/{name}", *options]) == 0
    found: dict[str, Any] = json.loads((run / name / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train(shards, out) == 0
    return out


def test_the_best_penalty_is_kept(run: Path) -> None:
    """Every strength is a step; the result is the first of the best macro-F1 in validation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "train.json").read_text())
    found = [line["validation_macro_f1"] for line in lines]

    assert result["steps"] == len(lines) == 3
    assert result["best_step"] == 1 + int(np.argmax(found))
    assert result["best"]["macro_f1"] == max(found)


def test_what_is_exported_answers_what_was_validated(run: Path, shards: str) -> None:
    """Evaluated on the validation speakers, all utterances together, it has the same figures."""
    found = evaluate(shards, run, "--split", "validation", "--set-size", "0", name="validation")
    best = json.loads((run / "train.json").read_text())["best"]
    assert found["scores"]["accuracy"] == pytest.approx(best["accuracy"])
    assert found["scores"]["macro_f1"] == pytest.approx(best["macro_f1"])


def test_a_wrong_speaker_is_worse_than_the_right_one(tmp_path: Path) -> None:
    """Loud for one is quiet for another: by another speaker's mean most are mistaken."""
    numbers = [number for number in range(36) if number % len(CLASSES) < 2]  # neutral and anger
    pairs = [(speaker, number) for speaker in range(6) for number in numbers]
    for split in ("train", "validation", "test"):
        write_shard(tmp_path / f"{split}.tar", [make_loudness(split, *pair) for pair in pairs])
    shards = f"{tmp_path}/*.tar"
    together = values(shards, tmp_path / "run", model={"set_sizes": "0"})
    run_training(from_mapping(TrainConfig, together))
    trained, index = load_recognizer(f"{tmp_path}/run/best"), read_index(shards).split("test")
    labels = np.asarray(index.table["label"].to_pylist())
    names = np.asarray(trained.model.config.names)

    def accuracy(support: Any) -> float:
        found = predict(trained, index, set_size=0, support=support)
        return float((names[found.scores.argmax(axis=1)] == labels).mean())

    assert accuracy("same") > 0.9
    assert accuracy("wrong") < 0.6  # by chance: half


def test_predict_answers_what_evaluate_does(run: Path, shards: str, tmp_path: Path) -> None:
    """Files of a speaker, heard together, get the probabilities of the evaluation."""
    evaluate(shards, run, "--set-size", "0", name="all")
    out = tmp_path / "predictions.parquet"
    command = ["predict", "--checkpoint", f"{run}/best", "--shards", shards, "--out", str(out)]
    assert main([*command, "--set-size", "0"]) == 0

    evaluated = pq.read_table(run / "all" / "predictions.parquet").to_pandas().set_index("key")
    predicted = pq.read_table(out).to_pandas().set_index("key").loc[evaluated.index]
    for name in ("score_neutral", "score_anger", "score_happiness"):
        np.testing.assert_allclose(predicted[name], evaluated[name], atol=1e-5)


def test_folds_are_trained_and_measured_together(shards: str, tmp_path: Path) -> None:
    """Each fold is fitted in a folder of its own, and their answers are one evaluation."""
    data = {"folds": "speaker:3"}
    assert train(shards, tmp_path / "run", "--folds", "all", data=data) == 0

    folds = [f"{tmp_path}/run/fold-{number}/best" for number in range(3)]
    command = ["evaluate", "--checkpoint", *folds, "--shards", shards, "--set-size", "0"]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["number"] == len(read_index(shards))


def test_a_finished_fit_is_not_repeated(shards: str, tmp_path: Path) -> None:
    """Without --resume the folder is refused; with it the result stays, byte for byte."""
    assert train(shards, tmp_path / "run") == 0
    weights = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    written = (tmp_path / "run" / "best" / "model.safetensors").stat().st_mtime_ns

    with pytest.raises(ConfigError, match="with its result"):
        run_training(from_mapping(TrainConfig, values(shards, tmp_path / "run")))
    resumed = values(shards, tmp_path / "run", resume=True)
    assert run_training(from_mapping(TrainConfig, resumed)).steps == 3
    assert (tmp_path / "run" / "best" / "model.safetensors").stat().st_mtime_ns == written

    changed = values(shards, tmp_path / "run", resume=True, model={"prior_utterances": 3.0})
    with pytest.raises(ConfigError, match=r"model\.prior_utterances: got 3\.0"):
        run_training(from_mapping(TrainConfig, changed))
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == weights


def test_another_corpus_is_no_resume(shards: str, tmp_path: Path) -> None:
    """A result says which corpus it was fitted on."""
    assert train(shards, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "train.json").read_text())
    (tmp_path / "run" / "train.json").write_text(json.dumps(result | {"corpus": "0" * 16}))

    with pytest.raises(ConfigError, match="holds a model of another corpus"):
        run_training(from_mapping(TrainConfig, values(shards, tmp_path / "run", resume=True)))


def test_both_spellings_are_one_recipe(shards: str, tmp_path: Path) -> None:
    """A run is kept under the American name, so that compare finds one method."""
    other = from_mapping(TrainConfig, values(shards, tmp_path) | {"recipe": "speaker-normalised"})
    assert other.recipe == "speaker-normalized"


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"engine": {"num_steps": 10}}, "engine.num_steps: speaker-normalized takes no"),
        ({"encoder": {"num_layers": 2}}, "encoder.num_layers: speaker-normalized takes no"),
        ({"data": {"modality": "video"}}, "got video for speaker-normalized"),
        ({"model": {"regularization": "0.1,0"}}, "expected one or more strengths above 0"),
        ({"model": {"prior_utterances": -1}}, "prior_utterances: got -1"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, groups: dict[str, Any], reason: str) -> None:
    """Options of gradient steps and of the small encoder would be taken and do nothing."""
    with pytest.raises(ConfigError, match=reason):
        from_mapping(TrainConfig, values("x/*.tar", tmp_path, **groups))


@pytest.mark.parametrize(
    "groups",
    [
        {"model": {"hidden_units": 8}},
        {"model": {"class_weights": "balanced"}},
        {"data": {"modality": "face"}},
        {"data": {"target": {"kind": "values", "values": ["arousal"]}}},
        {
            "data": {"target": {"kind": "values", "values": ["arousal"]}},
            "model": {"hidden_units": 8},
        },
    ],
)
def test_all_kinds_of_input_and_answer(shards: str, tmp_path: Path, groups: dict[str, Any]) -> None:
    """Faces, values, an MLP and class weights learn the made classes, or nearly."""
    result = run_training(from_mapping(TrainConfig, values(shards, tmp_path / "run", **groups)))
    figure = "ccc" if "target" in groups.get("data", {}) else "accuracy"
    assert result.best[figure] > 0.75
    assert len(load_recognizer(f"{tmp_path}/run/best").model.config.names) in (1, 3)


def test_a_frozen_encoder_may_take_the_place_of_statistics(shards: str, tmp_path: Path) -> None:
    """Its pooled features are standardized, and its weights stay as they were."""
    tuned = small_values(shards, tmp_path / "tuned", "finetune", num_steps=2, validate_every=2)
    run_training(from_mapping(TrainConfig, tuned))
    encoder = {"checkpoint": f"{tmp_path}/tuned/best"}
    run_training(from_mapping(TrainConfig, values(shards, tmp_path / "run", encoder=encoder)))

    before, after = (load_recognizer(f"{tmp_path}/{name}/best").model for name in ("tuned", "run"))
    assert after.hears_sets
    for name, weight in before.encoder.state_dict().items():
        torch.testing.assert_close(after.encoder.state_dict()[name], weight)

"""TAPT and PAPT run through the engine: from nothing, personalized, fine-tuned and on strangers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, HubertConfig, HubertModel

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import CorpusIndex, read_index
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.run import TrainingResult
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.models.encoders.loading import load_encoder
from trainers.preparation.proxy_speakers import assign_speakers, speaker_vectors
from trainers.recipes.papt.config import PretrainConfig
from trainers.recipes.papt.model import crop
from trainers.recipes.papt.task import PretrainingTask, hold_out
from trainers.training import run_training

MASKING = {
    "num_labels": 8,
    "mask_length": 2,
    "mask_probability": 0.6,
    "min_samples": 1600,
    "projection_size": 8,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def values_of(
    shards: str, out: Path, recipe: str, checkpoint: Path | None = None, **model: Any
) -> dict[str, Any]:
    values = small_values(shards, out, recipe)
    values["encoder"] |= {"checkpoint": None if checkpoint is None else str(checkpoint)}
    values["model"] = (MASKING if recipe in ("tapt", "papt") else {}) | model
    return values


def train(
    shards: str, out: Path, recipe: str, checkpoint: Path | None = None, **model: Any
) -> TrainingResult:
    return run_training(
        from_mapping(TrainConfig, values_of(shards, out, recipe, checkpoint, **model))
    )


def long_values(shards: str, out: Path) -> dict[str, Any]:
    values = values_of(shards, out, "tapt")
    values["engine"] |= {
        "num_steps": 160,
        "validate_every": 80,
        "checkpoint_every": 80,
        "learning_rate": 0.01,
    }
    return values


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def original(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-train a small encoder from nothing."""
    out = tmp_path_factory.mktemp("runs") / "tapt"
    run_training(from_mapping(TrainConfig, long_values(shards, out)))
    return out


@pytest.fixture(scope="module")
def personalized(shards: str, original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "papt"
    train(shards, out, "papt", original / "best", label_layer=1)
    return out


def test_prediction_of_hidden_frames_is_learned(original: Path) -> None:
    """The loss falls below that of guessing, and a plain encoder of transformers is exported."""
    curve = losses(original)
    assert np.mean(curve[-9:]) < np.mean(curve[:9])

    validated = json.loads((original / "train.json").read_text())["best"]
    assert validated["masked"] < np.log(MASKING["num_labels"])
    assert 1 / MASKING["num_labels"] < validated["accuracy"] <= 1

    load_encoder(str(original / "best"))
    assert AutoModel.from_pretrained(original / "best").config.hidden_size == 16


def test_interrupted_pretraining_goes_on_exactly(
    shards: str, original: Path, tmp_path: Path
) -> None:
    """A run set back half way repeats the same losses, because each batch seeds its own spans."""
    out = tmp_path / "resumed"
    shutil.copytree(original, out)
    shutil.rmtree(out / "checkpoints" / "step-00000160")
    run_training(from_mapping(TrainConfig, long_values(shards, out) | {"resume": True}))
    assert losses(out) == losses(original)


def test_pseudo_labels_of_other_options_are_made_anew(shards: str, tmp_path: Path) -> None:
    """A new run in the folder of an unfinished one does not use its clusters of another seed."""
    centers = []

    for seed in (0, 1):
        values = values_of(shards, tmp_path / "run", "tapt")
        values["engine"] |= {"num_steps": 1, "validate_every": 1, "seed": seed}
        run_training(from_mapping(TrainConfig, values))
        # As a run leaves its folder that was stopped before its first checkpoint.
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        (tmp_path / "run" / "train.json").unlink()
        centers.append(np.load(tmp_path / "run" / "pseudo_labels" / "centres.npy"))

    assert not np.allclose(centers[0], centers[1])


def test_zero_3_adapts_as_zero_0_does(shards: str, original: Path, tmp_path: Path) -> None:
    """PAPT's curve under ZeRO 3 is that of ZeRO 0, and its export is whole."""
    curves = []

    for stage in (0, 3):
        values = values_of(
            shards, tmp_path / str(stage), "papt", original / "best", fusion="prefix"
        )
        values["engine"] |= {"zero_stage": stage}
        run_training(from_mapping(TrainConfig, values))
        curves.append(losses(tmp_path / str(stage)))

    assert curves[1] == pytest.approx(curves[0], rel=1e-4)

    exported = [
        load_file(tmp_path / str(stage) / "best" / "speakers.safetensors")["table.weight"]
        for stage in (0, 3)
    ]
    torch.testing.assert_close(exported[1], exported[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fusion", ["last", "first", "prefix"])
def test_papt_is_fine_tuned_and_meets_strangers(
    shards: str, original: Path, tmp_path: Path, fusion: str
) -> None:
    """Test speakers borrow the embedding of the training speaker whom the encoder finds most alike.

    It is the original encoder that compares them.
    """
    train(shards, tmp_path / "papt", "papt", original / "best", fusion=fusion)
    train(shards, tmp_path / "tuned", "finetune", tmp_path / "papt" / "best", head="interpreter")

    trained = load_recognizer(str(tmp_path / "tuned" / "best"))
    state = trained.speakers
    assert state is not None
    assert state.names == [f"train-{number}" for number in range(6)]

    test = read_index(shards).split("test")
    numbers = assign_speakers(state, test, "audio")
    names, vectors = speaker_vectors(state.original, test, "audio")
    stored = state.embedding.vectors.numpy()
    for name, vector in zip(names, vectors, strict=True):
        cosines = stored @ vector / np.linalg.norm(stored, axis=1) / np.linalg.norm(vector)
        assert numbers[name] == int(cosines.argmax())

    found = predict(trained, test)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, rtol=1e-5)
    torch.nn.init.normal_(trained.model.speakers.table.weight)  # type: ignore[union-attr]
    assert np.abs(predict(trained, test).scores - found.scores).max() > 0.01


def test_the_original_encoder_travels_along(original: Path, personalized: Path) -> None:
    """Proxies are found with the encoder that training started from, not with the adapted one."""
    before, kept = (
        load_file(path / "model.safetensors")
        for path in (original / "best", personalized / "best/original")
    )
    adapted = load_file(personalized / "best" / "model.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert not all(torch.equal(before[name], adapted[name]) for name in before)


def test_fine_tuning_goes_on_from_a_fine_tuned_model(
    shards: str, personalized: Path, tmp_path: Path
) -> None:
    """Embeddings and the original encoder are passed on from export to export."""
    train(shards, tmp_path / "one", "finetune", personalized / "best")
    train(shards, tmp_path / "two", "finetune", tmp_path / "one" / "best")
    state = load_recognizer(str(tmp_path / "two" / "best")).speakers
    assert state is not None
    assert len(state.names) == 6


def test_known_speakers_keep_their_own_embedding(
    shards: str, personalized: Path, tmp_path: Path
) -> None:
    """A speaker with an embedding gets no proxy, even if another embedding is more alike."""
    train(shards, tmp_path / "tuned", "finetune", personalized / "best")
    state = load_recognizer(str(tmp_path / "tuned" / "best")).speakers
    assert state is not None

    state.embedding.vectors.copy_(state.embedding.vectors.flip(0))
    numbers = assign_speakers(state, read_index(shards).split("train"), "audio")
    assert numbers == {f"train-{number}": number for number in range(6)}


def test_hubert_is_adapted(shards: str, tmp_path: Path) -> None:
    """A checkpoint made without masking gets an embedding for hidden frames and keeps it.

    Adaptation trains its convolutions, as HuBERT's own pre-training does; fine-tuning keeps them.
    """
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    convolutions = {
        "conv_dim": (8, 8),
        "conv_kernel": (10, 8),
        "conv_stride": (8, 4),
        "num_feat_extract_layers": 2,
    }
    config = HubertConfig(mask_time_prob=0.0, num_conv_pos_embeddings=8, **sizes, **convolutions)
    HubertModel(config).save_pretrained(tmp_path / "hubert")

    train(shards, tmp_path / "papt", "papt", tmp_path / "hubert", label_layer=1, mask_length=10)
    adapted = HubertModel.from_pretrained(tmp_path / "papt" / "best")
    assert adapted.masked_spec_embed.shape == (16,)

    before = HubertModel.from_pretrained(tmp_path / "hubert")
    first, trained = (
        model.feature_extractor.conv_layers[0].conv.weight for model in (before, adapted)
    )
    assert not torch.equal(first, trained)

    train(shards, tmp_path / "tuned", "finetune", tmp_path / "papt" / "best")
    recognizer = load_recognizer(str(tmp_path / "tuned" / "best")).model
    tuned = recognizer.encoder.model.feature_extractor.conv_layers[0].conv.weight
    assert torch.equal(tuned, trained)


@pytest.mark.parametrize(("width", "expected", "gradient"), [(1024, 768, 1.0), (768, 256, 0.1)])
def test_head_and_front_end_are_huberts(
    shards: str, tmp_path: Path, width: int, expected: int, gradient: float
) -> None:
    """HuBERT large projects to 768 numbers, with the whole gradient; base to 256, with a tenth."""
    values = values_of(shards, tmp_path, "tapt", projection_size=None)
    values["encoder"] |= {"hidden_size": width, "num_layers": 1}
    config = from_mapping(TrainConfig, values)
    options = config.recipe_config()
    assert isinstance(options, PretrainConfig)
    model = PretrainingTask(config, options, read_index(shards)).build_model()
    predictor = model.predictor
    assert predictor.project.out_features == predictor.labels.embedding_dim == expected
    assert predictor.front_end_gradient == gradient


@pytest.mark.parametrize(
    ("recipe", "model", "engine", "message"),
    [
        ("papt", {}, {}, "encoder.checkpoint: must be given for papt"),
        (
            "tapt",
            {"min_samples": 10**6},
            {},
            "min_samples: got 1000000, but the longest utterance has",
        ),
        ("tapt", {"num_labels": 2**17}, {}, "num_labels: got 131072, expected at most 65536"),
        ("tapt", {"splits": ("train", "dev")}, {}, "split 'dev': no utterance has it"),
    ],
)
def test_what_cannot_be_adapted_is_refused(
    shards: str,
    tmp_path: Path,
    recipe: str,
    model: dict[str, Any],
    engine: dict[str, Any],
    message: str,
) -> None:
    """The message names the option to change."""
    values = values_of(shards, tmp_path / "run", recipe, **model)
    values["engine"] |= engine
    with pytest.raises(ConfigError, match=message):
        run_training(from_mapping(TrainConfig, values))


def test_setpeer_has_no_use_for_speaker_embeddings(
    shards: str, personalized: Path, tmp_path: Path
) -> None:
    """A checkpoint with speaker embeddings is refused, because both personalize."""
    with pytest.raises(ConfigError, match="got speaker embeddings"):
        train(shards, tmp_path / "run", "setpeer", personalized / "best")


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    st.integers(200, 2000),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_crop_starts_at_a_frame(lengths: list[int], longest: int, seed: int) -> None:
    """A crop is a stretch of the utterance that starts at a frame and is not too long."""
    samples = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(samples, lengths, strict=True):
        row[:length] = torch.arange(1, length + 1)

    cut, new_lengths, starts = crop(
        samples, torch.tensor(lengths), longest, 160, np.random.default_rng(seed)
    )

    for row, length, new, start in zip(cut, lengths, new_lengths.tolist(), starts, strict=True):
        assert (start % 160, new) == (0, min(length, longest))
        assert row[:new].tolist() == list(range(start + 1, start + new + 1))


def test_every_speaker_keeps_something_to_learn_from(shards: str) -> None:
    """A speaker of two utterances or more has one held out, but never the last one."""
    corpus = read_index(shards).split("train")
    thin = corpus.take(np.asarray([0, 6, 7, *range(12, 18)]))
    held_out = hold_out(thin, 0.3, seed=0)
    assert [int(held_out[rows].sum()) for rows in thin.rows_by_speaker().values()] == [0, 1, 2]
    with pytest.raises(ConfigError, match="no speaker has two utterances"):
        hold_out(CorpusIndex(thin.table.slice(0, 1)), 0.3, seed=0)

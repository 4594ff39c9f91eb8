"""emotion2vec runs through the engine, and its export is an encoder for all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Data2VecAudioConfig, Data2VecAudioModel, HubertConfig, HubertModel

from actors.embedding.config import EmbedderConfig
from actors.embedding.embedders import EncoderEmbedder
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.run import TrainingResult
from trainers.models.encoders.data2vec.decoders import DECODER_NAME
from trainers.models.encoders.loading import load_encoder
from trainers.models.standard import is_standard
from trainers.recipes.emotion2vec.task import Emotion2vecTask
from trainers.recipes.recipe import RecipeConfig
from trainers.training import make_task, read_corpus, run_training

SMALL = {
    "min_seconds": 0.1,
    "conv_size": 8,
    "mask_length": 2,
    "num_tokens": 2,
    "clones": 2,
    "ema_start": 0.9,
    "ema_steps": 20,
}
SIZES = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def values_of(
    shards: str, out: Path, checkpoint: Path | None = None, **model: Any
) -> dict[str, Any]:
    values = small_values(shards, out, "emotion2vec")
    values["encoder"] = SIZES | {"checkpoint": None if checkpoint is None else str(checkpoint)}
    values["model"] = SMALL | model
    return values


def train(values: dict[str, Any]) -> TrainingResult:
    return run_training(from_mapping(TrainConfig, values))


def task_of(values: dict[str, Any]) -> Emotion2vecTask:
    config = from_mapping(TrainConfig, values)
    task = make_task(config, read_corpus(config))
    assert isinstance(task, Emotion2vecTask)
    return task


def logged(out: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def long_values(shards: str, out: Path) -> dict[str, Any]:
    values = values_of(shards, out)
    values["engine"] |= {
        "num_steps": 60,
        "validate_every": 30,
        "checkpoint_every": 30,
        "learning_rate": 1e-2,
    }
    return values


@pytest.fixture(scope="module")
def pretrained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "emotion2vec"
    train(long_values(shards, out))
    return out


def test_hidden_frames_are_predicted_better_and_better(pretrained: Path) -> None:
    """The frame term falls below what predicting 0 would leave, and everything is logged."""
    frame = logged(pretrained, "frame")
    assert sum(frame[-10:]) < 0.7 * sum(frame[:10])
    assert logged(pretrained, "validation_frame_share")[-1] < 1
    for name in ("utterance", "utterance_spread", "target_spread", "prediction_spread"):
        assert len(logged(pretrained, name)) == 60
    assert len(logged(pretrained, "validation_utterance_spread")) == 2


def test_the_teacher_is_not_the_student(pretrained: Path) -> None:
    """After 60 steps it has moved, but less than the student has."""
    teacher = load_file(pretrained / "checkpoints/step-00000060/buffers.safetensors")
    student = load_file(pretrained / "last/model.safetensors")
    name = "layers.0.query_key_value.weight"
    assert not torch.equal(teacher[f"teacher.{name.replace('.', '/')}"], student[f"body.{name}"])


@pytest.fixture(scope="module")
def plain(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "plain"
    train(short_values(shards, out))
    return out


def short_values(shards: str, out: Path, **engine: Any) -> dict[str, Any]:
    values = values_of(shards, out)
    values["engine"] |= {"num_steps": 8, "validate_every": 8, "checkpoint_every": 8} | engine
    return values


@pytest.mark.parametrize(
    "engine", [{"zero_stage": 1}, {"zero_stage": 3}, {"gradient_checkpointing": True}]
)
def test_how_weights_are_kept_changes_nothing(
    shards: str, plain: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    """The curve is that of a run without ZeRO, and so are teacher and export."""
    train(short_values(shards, tmp_path, **engine))
    assert logged(tmp_path, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-4)
    for name in ("checkpoints/step-00000008/buffers.safetensors", "last/model.safetensors"):
        found, expected = load_file(tmp_path / name), load_file(plain / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)


def test_a_collapse_ends_the_run(shards: str, tmp_path: Path) -> None:
    """The message names the step, what has collapsed, and what to do."""
    with pytest.raises(ConfigError, match=r"collapse at step 4: targets spread .* expected at"):
        train(values_of(shards, tmp_path, guard_after=3, min_target_spread=9.0))


@pytest.mark.parametrize("recipe", ["finetune", "setpeer", "weighting", "tapt", "papt"])
def test_every_recipe_starts_from_its_export(
    shards: str, pretrained: Path, tmp_path: Path, recipe: str
) -> None:
    """The export is an `encoder.checkpoint` of every recipe, and what comes out loads again."""
    values = small_values(shards, tmp_path / "run", recipe, num_steps=4, validate_every=4)
    values["encoder"] |= {"checkpoint": str(pretrained / "last")}
    masking = {
        "num_labels": 4,
        "mask_length": 2,
        "mask_probability": 0.6,
        "min_samples": 1600,
        "projection_size": 8,
    }
    options = {
        "tapt": masking,
        "papt": masking | {"fusion": "prefix"},
        "weighting": {"neighbors": 2},
    }
    values["model"] = values.get("model", {}) | options.get(recipe, {})
    train(values)

    out = tmp_path / "run" / "best"
    assert is_standard(out) == (recipe in ("finetune", "weighting"))
    if recipe == "tapt":
        encoder = load_encoder(str(out))
        assert encoder.mask_embedding is not None
        assert encoder.model.config.num_extra_tokens == 2


def test_embed_makes_vectors_with_its_export(shards: str, pretrained: Path) -> None:
    """A vector of an utterance is the mean over its frames, without the tokens."""
    embedder = EncoderEmbedder(EmbedderConfig(encoder=str(pretrained / "best")))
    embedder.setup(1)
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(8000)
    (found,) = embedder.embed([waveform.numpy()], ["someone"])

    encoder = load_encoder(str(pretrained / "best")).eval()
    with torch.inference_mode():
        frames, _ = encoder(waveform.unsqueeze(0), torch.tensor([8000]))
    torch.testing.assert_close(torch.from_numpy(found), frames[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_another_run_goes_on_with_student_and_decoder(
    shards: str, pretrained: Path, tmp_path: Path
) -> None:
    """Student and decoder are taken over; tokens of another number are new."""
    values = values_of(shards, tmp_path, pretrained / "last")
    model = task_of(values).build_model()
    exported = load_file(pretrained / "last" / "model.safetensors")
    decoder = load_file(pretrained / "last" / DECODER_NAME)
    assert all(
        torch.equal(value, exported[name]) for name, value in model.encoder.state_dict().items()
    )
    assert all(
        torch.equal(value, decoder[name]) for name, value in model.decoder.state_dict().items()
    )
    assert torch.equal(model.teacher.get_buffer("tokens"), exported["body.tokens"])

    values["model"] |= {"utterance": "token"}
    tokens = task_of(values).build_model().encoder.body.tokens
    assert tokens is not None
    assert tokens.shape == (1, 16)
    assert not tokens.any()


def test_it_starts_from_data2vec_of_transformers(shards: str, tmp_path: Path) -> None:
    """The encoder hears as transformers' own does, and its hidden frames stay."""
    torch.manual_seed(0)
    theirs = Data2VecAudioModel(
        Data2VecAudioConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8),
            conv_kernel=(10, 8),
            conv_stride=(8, 4),
            num_feat_extract_layers=2,
            conv_pos_kernel_size=3,
            num_conv_pos_embeddings=2,
            num_conv_pos_embedding_groups=2,
        )
    )
    theirs.save_pretrained(tmp_path / "data2vec")
    values = values_of(shards, tmp_path / "run", tmp_path / "data2vec", utterance="global")
    model = task_of(values).build_model()
    assert torch.equal(model.encoder.body.mask_embedding, theirs.masked_spec_embed)  # type: ignore[arg-type]
    assert model.encoder.body.mask_embedding.requires_grad  # type: ignore[union-attr]

    train(values)
    assert load_encoder(str(tmp_path / "run" / "best")).model.config.body == "data2vec"


def test_another_family_is_refused(shards: str, tmp_path: Path) -> None:
    """HuBERT has no layers that could give targets, and the message says what has."""
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    with pytest.raises(ConfigError, match="got a hubert model, expected data2vec"):
        task_of(values_of(shards, tmp_path / "run", tmp_path / "hubert"))


def test_shards_need_no_speakers(tmp_path: Path) -> None:
    """Utterances that name no speaker are held out as those of one; other recipes refuse them.

    Nor need their json say how long they are.
    """
    samples = []
    for number in range(20):
        sample = make_utterance("train", 0, number)
        left_out = ("speaker", "duration_seconds")
        metadata = {key: value for key, value in sample.metadata.items() if key not in left_out}
        split = "train" if number < 14 else "validation"
        samples.append(replace(sample, metadata=metadata | {"split": split}))
    write_shard(tmp_path / "shard-000000.tar", samples)

    values = values_of(str(tmp_path / "shard-000000.tar"), tmp_path / "run", held_out_share=0.2)
    task = task_of(values)
    assert len(task.train) == 11
    sounds = [
        make_utterance("train", 0, int(key[-3:])) for key in task.train.table["key"].to_pylist()
    ]
    stated = [sample.metadata["duration_seconds"] for sample in sounds]
    np.testing.assert_allclose(task.train.durations, stated)
    train(values)
    with pytest.raises(ConfigError, match="has no `speaker` in its json; training needs one"):
        read_index(values["shards"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"body": "data2vec", "front_end": "log_mel"}, "got log_mel with body data2vec"),
        ({"ema_start": 0.9, "ema_end": 0.5}, "ema_start, ema_end: got 0.9 and 0.5"),
        ({"min_seconds": 30.0}, "expected at most max_seconds"),
        ({"mask_share": 1.5}, "expected shares below 1"),
        ({"targets": {"frame": "batch_norm"}}, "targets.frame"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    shards: str, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    """The message names the option, and what would be right."""
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, values_of(shards, tmp_path, **model))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"targets": {"top_layers": 4}}, "got 4, expected at most the encoder's 3"),
        ({"prenet_layers": 3}, "got 3, expected fewer than encoder.num_layers, 3"),
    ],
)
def test_more_layers_than_there_are_is_refused(
    shards: str, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    """Targets are averaged over layers that the encoder has."""
    with pytest.raises(ConfigError, match=message):
        task_of(values_of(shards, tmp_path, **model)).build_model()


def test_only_recipes_with_speakers_ask_for_them(shards: str, tmp_path: Path) -> None:
    """tapt and emotion2vec need none; papt and the recognizers do."""
    needs = {}
    for recipe in ("emotion2vec", "tapt", "papt", "finetune", "setpeer", "weighting"):
        values = small_values(shards, tmp_path, recipe)
        values["encoder"] |= {"checkpoint": "some/encoder"}
        options: RecipeConfig = from_mapping(TrainConfig, values).recipe_config()
        needs[recipe] = options.needs_speakers
    assert [recipe for recipe, needed in needs.items() if not needed] == ["emotion2vec", "tapt"]

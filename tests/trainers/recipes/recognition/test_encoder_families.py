"""Every family of pretrained encoders can be fine-tuned: whole, with LoRA, with SpecAugment."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WavLMConfig, WavLMModel, pipeline

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.trainers.models.encoders.test_layerwise import SMALL
from tests.trainers.models.encoders.test_more_families import make_model
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.models.recognizer import EmotionRecognizer
from trainers.recipes.recognition.model import RecognitionModel
from trainers.training import make_task, run_training

FAMILIES = ["conformer-relative", "unispeech-sat", "sew", "w2v-bert", "whisper"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def write_encoder(name: str, folder: Path) -> str:
    """Write a checkpoint of random weights as transformers saves it."""
    strides = {"conv_kernel": (20, 20), "conv_stride": (16, 20)}  # a frame every 20 ms
    changes = {} if name in ("whisper", "w2v-bert") else strides
    model = make_model(name, **changes)
    if name == "whisper":
        # Beside the position embeddings, what new convolutions make of sound is next to nothing.
        for convolution in (model.encoder.conv1, model.encoder.conv2):
            convolution.weight.data *= 20
    model.save_pretrained(folder)
    return str(folder)


def config_of(
    shards: str, out: Path, recipe: str, encoder: dict[str, Any], **engine: Any
) -> TrainConfig:
    values = small_values(shards, out, recipe, **engine)
    values["encoder"] = encoder
    return from_mapping(TrainConfig, values)


def run(shards: str, out: Path, recipe: str, encoder: dict[str, Any], **engine: Any) -> list[float]:
    """Train and return the loss of each step."""
    run_training(config_of(shards, out, recipe, encoder, **engine))
    return losses_of(out)


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("name", "recipe"), [*((name, "finetune") for name in FAMILIES), ("whisper", "setpeer")]
)
def test_a_short_run_learns(name: str, recipe: str, shards: str, tmp_path: Path) -> None:
    """The loss falls, and the export loads."""
    checkpoint = write_encoder(name, tmp_path / "encoder")
    losses = run(
        shards,
        tmp_path / "run",
        recipe,
        {"checkpoint": checkpoint},
        num_steps=24,
        validate_every=24,
        checkpoint_every=24,
        learning_rate=5e-3,
    )
    EmotionRecognizer.from_pretrained(tmp_path / "run" / "best")
    assert sum(losses[-4:]) < 0.85 * sum(losses[1:5])


def write_wavlm(folder: Path) -> str:
    """Write a WavLM, whose attention is the one that LoRA must be fitted to."""
    torch.manual_seed(0)
    config = WavLMConfig(
        **SMALL,
        conv_dim=(16, 16),
        conv_kernel=(20, 20),
        conv_stride=(16, 20),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
    )
    WavLMModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("recipe", ["finetune", "setpeer", "weighting"])
def test_a_run_with_lora_exports_plain_weights(recipe: str, shards: str, tmp_path: Path) -> None:
    """The export has no trace of LoRA; only the adapted projections and the new parts changed."""
    checkpoint = write_wavlm(tmp_path / "encoder")
    losses = run(
        shards,
        tmp_path / "run",
        recipe,
        {"checkpoint": checkpoint, "lora_rank": 2, "lora_alpha": 8.0},
        num_steps=24 if recipe == "finetune" else 4,
        validate_every=24,
        checkpoint_every=24,
        learning_rate=1e-2,
    )
    assert recipe != "finetune" or sum(losses[-4:]) < 0.85 * sum(losses[1:5])

    exported = EmotionRecognizer.from_pretrained(tmp_path / "run" / "last").encoder.model
    before = WavLMModel.from_pretrained(checkpoint).state_dict()
    assert exported.state_dict().keys() == before.keys()
    changed = {
        name.split(".")[-2]
        for name, value in exported.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"q_proj", "k_proj", "v_proj", "out_proj"}


def test_transformers_opens_what_lora_learned(shards: str, tmp_path: Path) -> None:
    """The pipeline answers as the model did in training, with the matrices attached, to 1e-5."""
    encoder = {"checkpoint": write_wavlm(tmp_path / "encoder"), "lora_rank": 2, "lora_alpha": 8.0}
    config = config_of(shards, tmp_path / "run", "finetune", encoder)
    task = make_task(config, read_index(shards))
    model = task.build_model().eval()
    assert isinstance(model, RecognitionModel)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    task.export(model, tmp_path / "best")

    batch = task.training_reader()[0, task.plan().epoch(0)[0]]
    (heard,) = batch.inputs.values()
    classify = pipeline("audio-classification", model=str(tmp_path / "best"), device="cpu")
    for row, samples, length in zip(
        model.scores(batch), heard.values, heard.lengths.tolist(), strict=True
    ):
        found = {one["label"]: one["score"] for one in classify(samples[:length].numpy())}
        expected = dict(zip(model.recognizer.config.names, row.tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_run_resumes_exactly_with_lora_and_specaugment(shards: str, tmp_path: Path) -> None:
    """A run that goes on from step 4 draws the curve of the undisturbed one, bit for bit."""
    encoder = {
        "checkpoint": write_wavlm(tmp_path / "encoder"),
        "lora_rank": 2,
        "mask_time_probability": 0.3,
        "mask_time_length": 2,
        "mask_channel_probability": 0.2,
        "mask_channel_length": 3,
    }
    out, options = tmp_path / "run", {"keep_checkpoints": 9, "batches_per_step": 2}
    undisturbed = run(shards, out, "finetune", encoder, **options)

    for checkpoint in (out / "checkpoints").iterdir():
        if checkpoint.name > "step-00000004":
            shutil.rmtree(checkpoint)
    run_training(replace(config_of(shards, out, "finetune", encoder, **options), resume=True))
    assert losses_of(out) == undisturbed

    encoder |= {"mask_time_probability": 0.0, "mask_channel_probability": 0.0}
    assert run(shards, tmp_path / "plain", "finetune", encoder, **options) != undisturbed


@pytest.mark.parametrize(
    ("encoder", "recipe", "reason"),
    [
        ({"lora_rank": 2}, "finetune", "without encoder.checkpoint"),
        ({"lora_rank": 2, "checkpoint": "x"}, "tapt", "uses no labels"),
        ({"mask_time_probability": 0.1}, "tapt", "uses no labels"),
        ({"mask_time_probability": 1.0}, "finetune", "expected a share below 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    encoder: dict[str, Any], recipe: str, reason: str, tmp_path: Path
) -> None:
    """The error names the option and what it works with."""
    with pytest.raises(ConfigError, match=reason):
        config_of("shards", tmp_path, recipe, encoder)


def test_whisper_is_refused_for_tapt_before_anything_is_clustered(tmp_path: Path) -> None:
    """The error names the recipes that it works with."""
    make_model("whisper").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConfigError, match="works with finetune, setpeer and weighting"):
        config_of("shards", tmp_path, "tapt", {"checkpoint": str(tmp_path / "encoder")})


def test_utterances_too_long_for_whisper_are_refused_at_once(shards: str, tmp_path: Path) -> None:
    """The error counts them before training starts."""
    make_model("whisper", max_source_positions=15).save_pretrained(tmp_path / "encoder")
    config = config_of(
        shards, tmp_path / "run", "finetune", {"checkpoint": str(tmp_path / "encoder")}
    )
    with pytest.raises(ConfigError, match=r"\d+ of 36 utterances of the split train are longer"):
        make_task(config, read_index(shards)).build_model()

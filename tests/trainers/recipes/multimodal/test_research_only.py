"""What openSMILE's license forbids is said by training, and by the cards of all later models."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from shards.config_values import from_mapping
from tests.trainers.models.encoders.test_layerwise import CONVOLUTIONS, SMALL
from tests.worlds.labeled import label
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.training import run_training

SENTENCE = "The encoder has learned targets that openSMILE made."


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def write_tables(folder: Path, shards: str, features: str) -> str:
    arrays = {"acoustics": np.random.default_rng(1).random((108, 2)).astype(np.float32)}
    panel = {"objectives": {"acoustics": {"features": features, "frames": "voiced"}}}
    label(folder, shards, arrays, digests=("panel",) * 3, panel=panel)
    return str(folder)


def card_of(out: Path) -> str:
    return (out / "best" / "README.md").read_text(encoding="utf-8")


def adapt(shards: str, folder: Path, features: str, encoder: dict[str, Any]) -> str:
    """Adapt an encoder by descriptors, and return the card."""
    weights = {"sentiment_weight": 0.0, "face_weight": 0.0}
    values = small_values(shards, folder / "adapted", "multimodal", num_steps=1)
    tables = write_tables(folder / "predictions", shards, features)
    values |= {"targets": tables, "model": weights}
    values["encoder"] |= encoder
    run_training(from_mapping(TrainConfig, values))
    return card_of(folder / "adapted")


def finetune(shards: str, out: Path, checkpoint: Path) -> str:
    """Fine-tune a recognizer from a checkpoint, and return the card."""
    values = small_values(shards, out, "finetune", num_steps=1)
    values["encoder"] = {"checkpoint": str(checkpoint)}
    run_training(from_mapping(TrainConfig, values))
    return card_of(out)


@pytest.mark.parametrize("family", ["small", "hubert"])
def test_what_learned_from_opensmile_says_so(
    shards: str, tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning comes once, and the cards of the encoder and of two later models repeat it."""
    encoder = {}
    if family == "hubert":
        HubertModel(HubertConfig(**(SMALL | CONVOLUTIONS))).save_pretrained(tmp_path / "hubert")
        encoder = {"checkpoint": str(tmp_path / "hubert")}

    with caplog.at_level(logging.WARNING):
        card = adapt(shards, tmp_path, "egemaps-32-16", encoder)
    said = [one.getMessage() for one in caplog.records if "research only" in one.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("openSMILE made targets in --targets")
    assert SENTENCE in card
    assert "- acoustics: 2 values" in card

    assert SENTENCE in finetune(shards, tmp_path / "once", tmp_path / "adapted" / "best")
    later = finetune(shards, tmp_path / "twice", tmp_path / "once" / "best")
    assert SENTENCE in later
    assert "## License\n\nNot stated." in later  # so that `push` refuses it


def test_what_needs_no_license_says_nothing(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The project's own descriptors leave no trace."""
    with caplog.at_level(logging.WARNING):
        card = adapt(shards, tmp_path, "builtin", {})
    assert not [one for one in caplog.records if "research only" in one.getMessage()]
    assert "openSMILE" not in card
    assert "## License\n\nNot stated." in card

    assert "openSMILE" not in finetune(shards, tmp_path / "once", tmp_path / "adapted" / "best")

"""What a run exports opens for others, and its card says what it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, WavLMConfig, pipeline

from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.loading.loader import BatchReader
from tests.worlds.training import CLASSES, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.recipes.recognition.model_card import CardFacts, write_card
from trainers.training import run_training

FACTS = CardFacts(
    recipe="finetune",
    encoder="facebook/hubert-large-ll60k",
    revision="abc",
    corpus_digest="0123",
    num_utterances=9,
    num_speakers=3,
    num_validation_utterances=4,
    num_validation_speakers=2,
    figures=None,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def write_encoder(folder: Path) -> str:
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_conv_pos_embeddings=8,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(8, 4),
        num_feat_extract_layers=2,
    )
    HubertModel(config).save_pretrained(folder)
    return str(folder)


def run(shards: str, out: Path, recipe: str = "finetune", **encoder: Any) -> Path:
    values = small_values(shards, out, recipe)
    values["encoder"] = encoder or values["encoder"]
    run_training(from_mapping(TrainConfig, values))
    return out / "best"


def test_a_run_on_a_pretrained_encoder_opens_with_transformers(shards: str, tmp_path: Path) -> None:
    """The pipeline gives the figures that `evaluate` predicts, and a second run can start there."""
    best = run(shards, tmp_path / "run", checkpoint=write_encoder(tmp_path / "encoder"))
    index = read_index(shards).split("test")
    expected = predict(load_recognizer(str(best)), index).scores

    classify = pipeline("audio-classification", model=str(best), device="cpu")
    reader = BatchReader(index, ["sound"])
    for row in range(0, len(index), 7):
        sound = reader._decode(row)["sound"]
        found = {one["label"]: one["score"] for one in classify(sound, top_k=None)}
        np.testing.assert_allclose([found[name] for name in CLASSES], expected[row], atol=1e-5)

    again = run(shards, tmp_path / "again", checkpoint=str(best))
    assert EmotionRecognizer.from_pretrained(again).config.trained_on["start"]
    assert str(tmp_path) not in "".join(
        path.read_text(encoding="utf-8")
        for path in again.iterdir()
        if path.suffix != ".safetensors"
    )


def test_the_card_says_what_the_run_found(shards: str, tmp_path: Path) -> None:
    """The digest and the figures of the best checkpoint are those of the run's result."""
    best = run(shards, tmp_path / "run", checkpoint=write_encoder(tmp_path / "encoder"))
    result = json.loads((tmp_path / "run" / "train.json").read_text(encoding="utf-8"))
    card = (best / "README.md").read_text(encoding="utf-8")

    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "audio-classification"
    assert f"`{result['corpus']}`" in text
    assert all(f"| {name} | {value:.4f} |" in text for name, value in result["best"].items())
    assert "36 utterances of 6 speakers" in text
    assert 'pipeline("audio-classification"' in text
    assert "Started from `encoder`." in text


def test_the_card_of_a_model_with_sets_says_how_to_open_it(shards: str, tmp_path: Path) -> None:
    """Transformers alone cannot express sets."""
    card = run(shards, tmp_path / "run", "setpeer") / "README.md"
    text = card.read_text(encoding="utf-8")
    assert "transformers alone cannot express this model" in text
    assert "register_recognizers()" in text


@pytest.mark.parametrize("config", [Wav2Vec2Config(), WavLMConfig()], ids=["wav2vec2", "wavlm"])
def test_a_card_without_figures_says_so(config: Any, tmp_path: Path) -> None:
    """After a resume there may be none; a hub's encoder is named with its revision."""

    described = RecognizerConfig(encoder=config.to_dict(), names=["a", "b"])
    write_card(tmp_path, described, FACTS)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Not measured since the run was resumed" in text
    assert "`facebook/hubert-large-ll60k` at revision `abc`" in text
    assert "state the license here" in text


@pytest.mark.parametrize("is_personal", [False, True])
def test_the_card_asks_for_one_speaker_only_where_the_model_listens_to_one(
    tmp_path: Path, is_personal: bool
) -> None:
    """A plain model takes utterances of anybody in one batch; SetPeER's are those of a set."""
    extractor = {"num_prefixes": 1} if is_personal else None
    described = RecognizerConfig(
        encoder={"model_type": "small"}, names=["a", "b"], extractor=extractor
    )

    write_card(tmp_path, described, FACTS)

    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "register_recognizers" in text
    assert ("must be of one speaker" in text) == is_personal

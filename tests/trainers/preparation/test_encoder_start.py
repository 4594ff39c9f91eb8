"""A training without labels starts from the encoder of any export, and names what it would lose."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertConfig, HubertForCTC, HubertModel

from shards.config import ConfigError
from trainers.models.audio_classification import export_recognizer
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.personal.adapted_encoder import SpeakerState, save_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.preparation.encoder_start import load_start

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
}


def recognizer(**options: Any) -> EmotionRecognizer:
    torch.manual_seed(0)
    encoder = HubertConfig(**SIZES).to_dict()
    return EmotionRecognizer(
        RecognizerConfig(encoder=encoder, names=["neutral", "anger"], **options)
    )


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({}, r"2 tensors .*: head.1.weight \[2, 16\], head.1.bias \[2\]"),
        (
            {"fusion": "prefix", "extractor": {"code_width": 8, "num_codes": 4}},
            "extractor.layer_embedding.weight",
        ),
    ],
    ids=["as transformers has it", "SetPeER"],
)
def test_the_encoder_of_a_recognizer_is_taken_only_if_allowed(
    tmp_path: Path, options: dict[str, Any], lost: str
) -> None:
    """Both forms of an export give their encoder; the head and P are named where they would go."""
    model = recognizer(**options)
    export_recognizer(model, tmp_path)
    with pytest.raises(ConfigError, match=lost):
        load_start(str(tmp_path), None, allow_partial=False)

    found = load_start(str(tmp_path), None, allow_partial=True).state_dict()
    expected = model.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_speaker_embeddings_are_not_lost_unseen(tmp_path: Path) -> None:
    """Adaptation from an encoder of PAPT would lose its embeddings, so it is refused."""
    encoder = LayerwiseEncoder(HubertModel(HubertConfig(**SIZES)))
    state = SpeakerState(["a", "b"], "last", SpeakerEmbedding(2, 16, 16, "last"), encoder)
    save_encoder(encoder, tmp_path, state)
    with pytest.raises(ConfigError, match=r"speakers.table.weight \[2, 16\]"):
        load_start(str(tmp_path), None, allow_partial=False)
    assert load_start(str(tmp_path), None, allow_partial=True).width == 16


def test_an_encoder_loses_no_layer_unseen(tmp_path: Path) -> None:
    """A configuration with fewer layers than the weights is refused; transformers would go on."""
    HubertModel(HubertConfig(**SIZES | {"num_hidden_layers": 3})).save_pretrained(tmp_path)
    HubertConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no place for 16 of its weights, such as encoder"):
        load_encoder(str(tmp_path))


def test_a_foreign_head_is_named_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model of speech recognition is a start; its last layer is no part of the encoder."""
    model = HubertForCTC(HubertConfig(**SIZES))
    model.save_pretrained(tmp_path)
    found = load_start(str(tmp_path), None, allow_partial=False).model.state_dict()
    assert all(
        torch.equal(found[name], tensor) for name, tensor in model.hubert.state_dict().items()
    )
    assert "not part of the encoder: lm_head.bias, lm_head.weight" in caplog.text

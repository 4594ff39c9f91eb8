"""Speaker vectors are made of sound; an encoder of anything else is refused."""

from pathlib import Path

import pytest
from transformers import VideoMAEConfig, VideoMAEModel

from actors.embedding.config import EmbedderConfig
from actors.embedding.embedders import EncoderEmbedder
from shards.config import ConfigError
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig

VIDEOMAE = VideoMAEConfig(
    image_size=16,
    patch_size=8,
    num_frames=4,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
)


def test_an_encoder_of_pictures_makes_no_speaker_vectors(tmp_path: Path) -> None:
    """VideoMAE itself and recognizers of video and of face features are refused by name."""
    VideoMAEModel(VIDEOMAE).save_pretrained(tmp_path / "plain")
    for modality in ("video", "face"):
        config = RecognizerConfig(encoder=VIDEOMAE.to_dict(), names=["anger"], modality=modality)
        EmotionRecognizer(config).save_pretrained(tmp_path / modality)

    for name, what in (("plain", "video"), ("video", "video"), ("face", "face")):
        with pytest.raises(ConfigError, match=f"takes {what}; expected an encoder of sound"):
            EncoderEmbedder(EmbedderConfig(encoder=str(tmp_path / name))).setup(1)

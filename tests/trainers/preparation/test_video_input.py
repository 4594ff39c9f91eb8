"""A video encoder's clips are made as its checkpoint says; what cannot be followed is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
)

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.media.clip_format import ClipFormat
from shards.media.face_config import FaceBoxConfig
from trainers.config import TrainConfig
from trainers.models.encoders.loading import load_encoder, require_modality
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.preparation.video_input import clip_format, save_processor
from trainers.settings.encoder import EncoderConfig

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
DECODER = {
    "decoder_num_hidden_layers": 1,
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
}
VIDEOMAE = VideoMAEConfig(
    image_size=16, patch_size=8, num_frames=4, decoder_intermediate_size=16, **SMALL, **DECODER
)
# As in the published checkpoints, which were made with transformers 4.
PUBLISHED = {
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "VideoMAEFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 20},
}
FACES = FaceBoxConfig(detector="yunet.onnx")
EXPECTED = ClipFormat(
    num_frames=4,
    side_pixels=16,
    shortest_edge_pixels=20,
    rescale_factor=0.00392156862745098,
    faces=FACES,
)


def checkpoint(folder: Path, *, without: str = "none", **changes: Any) -> EncoderConfig:
    """Write a checkpoint in the form of the hub's masked autoencoders.

    It has an encoder and a decoder, biases by their old names, and a processor.
    """
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(VIDEOMAE)
    model.save_pretrained(folder)

    weights = {
        name: torch.randn_like(value)
        for name, value in model.state_dict().items()
        if without not in name
    }

    for new, old in (("query.bias", "q_bias"), ("value.bias", "v_bias")):
        weights = {
            name.replace(f"attention.{new}", f"attention.{old}"): value
            for name, value in weights.items()
        }

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED | changes))
    return EncoderConfig(checkpoint=str(folder))


def test_a_published_checkpoint_says_how_its_clips_are_made(tmp_path: Path) -> None:
    """Pictures and side come from its configuration, the rest from its processor.

    The decoder is left behind.
    """
    assert clip_format(checkpoint(tmp_path), FACES) == EXPECTED

    encoder, file = load_encoder(str(tmp_path)), load_file(tmp_path / "model.safetensors")
    assert encoder.modality == "video"
    for name, value in encoder.model.state_dict().items():
        old = name.replace("attention.query.bias", "attention.q_bias").replace(
            "attention.value.bias", "attention.v_bias"
        )
        assert torch.equal(file[f"videomae.{old}"], value)


def test_a_checkpoint_without_some_weights_is_refused(tmp_path: Path) -> None:
    """A checkpoint that lacks weights is refused by their names."""
    start = checkpoint(tmp_path, without="layer.1.output.dense.bias")
    with pytest.raises(
        ConfigError, match=r"without encoder\.layer\.1\.output\.dense\.bias, expected all weights"
    ):
        load_encoder(str(start.checkpoint))


def test_a_processor_saved_by_transformers_5_says_the_same(tmp_path: Path) -> None:
    """A processor is read under its new name too."""
    VideoMAEModel(VIDEOMAE).save_pretrained(tmp_path)
    values = {name: value for name, value in PUBLISHED.items() if name != "feature_extractor_type"}
    VideoMAEImageProcessorPil(**values).save_pretrained(tmp_path)  # type: ignore[arg-type]
    assert clip_format(EncoderConfig(checkpoint=str(tmp_path)), FACES) == EXPECTED


def test_a_recognizer_is_gone_on_with_as_it_was_trained(tmp_path: Path) -> None:
    """A recognizer's faces are found as before unless this run says otherwise."""
    values = VIDEOMAE.to_dict()
    config = RecognizerConfig(
        encoder=values, names=["anger"], modality="video", clip=to_mapping(EXPECTED)
    )
    EmotionRecognizer(config).save_pretrained(tmp_path)

    assert EmotionRecognizer.from_pretrained(tmp_path).clip_format == EXPECTED

    start = EncoderConfig(checkpoint=str(tmp_path))
    assert clip_format(start, FaceBoxConfig()) == EXPECTED

    others = FaceBoxConfig(detector="other.onnx")
    assert clip_format(start, others).faces == others


def test_from_nothing_the_options_say() -> None:
    """The options say how a new encoder's clips are made: whole pictures without a detector."""
    found = clip_format(EncoderConfig(num_frames=8, image_size=32, patch_size=8), FaceBoxConfig())
    assert (found.num_frames, found.side_pixels, found.shortest_edge_pixels) == (8, 32, 32)
    assert found.faces.detector is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_center_crop": False}, "expected a shortest_edge and the 16 x 16"),
        (
            {"crop_size": {"height": 14, "width": 14}},
            "crop_size .*14.*, expected a shortest_edge and the 16 x 16",
        ),
        ({"size": {"height": 16, "width": 16}}, "size .*'height': 16.*, expected a shortest_edge"),
        ({"size": {"shortest_edge": 8}}, "shortest_edge_pixels: got 8"),
    ],
)
def test_another_way_of_making_pictures_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A processor that cannot be followed is refused and not followed in part."""
    with pytest.raises(ConfigError, match=message):
        clip_format(checkpoint(tmp_path, **changes), FACES)


def test_what_is_no_video_encoder_is_refused(tmp_path: Path) -> None:
    """A model without a processor, a speech model and a recognizer of sound are refused.

    So is a video encoder for sound.
    """
    model = VideoMAEModel(VIDEOMAE)
    model.save_pretrained(tmp_path / "bare")

    convolutions = {
        "conv_dim": (16,),
        "conv_kernel": (10,),
        "conv_stride": (5,),
        "num_feat_extract_layers": 1,
    }

    HubertModel(HubertConfig(num_conv_pos_embeddings=8, **SMALL, **convolutions)).save_pretrained(
        tmp_path / "speech"
    )
    (tmp_path / "speech" / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    EmotionRecognizer(RecognizerConfig(names=["anger"])).save_pretrained(tmp_path / "sound")

    for name, message in (
        ("bare", "no usable config.json and preprocessor_config.json"),
        ("speech", "got a hubert model for video, expected videomae"),
        ("sound", "was not trained on video"),
    ):
        with pytest.raises(ConfigError, match=message):
            clip_format(EncoderConfig(checkpoint=str(tmp_path / name)), FACES)

    with pytest.raises(ConfigError, match="got an encoder of video, expected one of audio"):
        require_modality(load_encoder(str(tmp_path / "bare")), "audio")


@pytest.mark.parametrize("recipe", ["tapt", "papt"])
def test_recipes_of_sound_refuse_video(recipe: str) -> None:
    """Recipes of sound refuse video before anything is loaded."""
    with pytest.raises(ConfigError, match=f"got video for {recipe}, expected audio, because"):
        from_mapping(
            TrainConfig,
            {"recipe": recipe, "shards": "*.tar", "out": "run", "data": {"modality": "video"}},
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 60}, "image_size: got 60, expected a multiple"),
        ({"num_frames": 5}, "num_frames: got 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    """The message names the option."""
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(**options)  # type: ignore[arg-type]


def test_a_saved_processor_makes_the_same_clips(tmp_path: Path) -> None:
    """Beside an encoder, the written image processor gives the format back, but for the faces."""
    VideoMAEModel(VIDEOMAE).save_pretrained(tmp_path)
    made = replace(EXPECTED, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), resample=3)
    save_processor(made, tmp_path)
    assert clip_format(EncoderConfig(checkpoint=str(tmp_path)), FACES) == made

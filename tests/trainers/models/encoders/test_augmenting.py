"""SpecAugment hides what its definition says, in training alone, and the same by the same seed."""

from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEModel

from shards.config import ConfigError
from tests.trainers.models.encoders import test_layerwise, test_more_families
from tests.trainers.models.encoders.test_layerwise import sounds
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.parts.masking import SpecAugment

FAMILIES = ["mel", *test_layerwise.FAMILIES, *test_more_families.FAMILIES]
WITHOUT_EMBEDDING = ("whisper",)


def make_encoder(name: str) -> LayerwiseEncoder:
    if name in test_more_families.FAMILIES:
        return test_more_families.make_encoder(name)
    return test_layerwise.encoder_named(name)


def spans(time: float = 0.0, channels: float = 0.0, length: int = 3) -> SpecAugment:
    return SpecAugment(
        time_probability=time,
        time_length=length,
        channel_probability=channels,
        channel_length=length,
    )


def batch_for(name: str) -> tuple[Tensor, Tensor]:
    """Sound of a few dozen frames; those of the small encoder are longer."""
    return sounds((16_000, 9000, 12_000) if name == "mel" else (3000, 1800, 2400))


def projected(encoder: LayerwiseEncoder, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What the layers get of a batch [N, T, D], after SpecAugment."""
    augmentation: Any = encoder._augmentation
    plain, seen = augmentation._hide, []

    def keep(*given: Tensor) -> Tensor:
        seen.append(plain(*given))
        return seen[-1]

    augmentation._hide = keep
    encoder(*batch)
    augmentation._hide = plain

    (found,) = seen
    return found.transpose(1, 2) if augmentation._adapter.PROJECTED_LAYOUT == "NDT" else found


def expected_share(num_frames: int, num_spans: int, length: int) -> float:
    """The mean share of frames in `num_spans` spans at distinct places, by counting places."""
    places = num_frames - length + 1
    hidden = 0.0
    for frame in range(num_frames):
        covering = min(frame, places - 1) - max(0, frame - length + 1) + 1
        hidden += 1 - comb(places - covering, num_spans) / comb(places, num_spans)
    return hidden / num_frames


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_and_channels_are_hidden_in_training_alone(name: str) -> None:
    """Hidden frames are zero, hidden channels too; evaluation hears everything."""
    encoder, batch = make_encoder(name), batch_for(name)
    with torch.inference_mode():
        plain = encoder(*batch)[0]
    encoder.augment(spans(time=0.4, channels=0.3), learned=False)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(*batch)[0], plain)

        torch.manual_seed(2)
        first = projected(encoder.train(), batch)
        torch.manual_seed(2)
        assert torch.equal(projected(encoder, batch), first)

    frames, channels = (first == 0).all(dim=2), (first == 0).all(dim=1)
    assert 0 < int(frames[0].sum()) < frames.shape[1]
    assert 0 < int(channels[0].sum()) < channels.shape[1]
    assert not torch.equal(channels[0], channels[1])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WITHOUT_EMBEDDING])
def test_hidden_frames_are_the_embedding_which_learns(name: str) -> None:
    """The checkpoint's own mask embedding stands for them, and gets a gradient."""
    encoder, batch = make_encoder(name).train(), batch_for(name)
    encoder.augment(spans(time=0.4), learned=True)
    embedding: Any = getattr(encoder.model, "masked_spec_embed", None)
    if embedding is None:
        embedding = encoder.model.mask_embedding

    frames = (projected(encoder, batch) == embedding).all(dim=2)
    assert 0 < int(frames.sum()) < frames.numel()
    encoder(*batch)[0].square().sum().backward()
    assert embedding.grad.norm() > 0

    # Where nothing is hidden, the gradient is there and zero: ranks must have the same gradients.
    embedding.grad = None
    encoder.augment(spans(time=0.4, length=10_000), learned=True)
    encoder(*batch)[0].square().sum().backward()
    assert embedding.grad.norm() == 0


def test_the_share_hidden_is_that_of_the_definition() -> None:
    """0.3 of 120 frames in spans of 6 are six spans; so many frames lie in them."""
    encoder = LayerwiseEncoder(
        SequenceEncoder(SequenceEncoderConfig("face", feature_size=5, hidden_size=32))
    )
    encoder.augment(spans(time=0.3, channels=0.25, length=6), learned=False)
    torch.manual_seed(0)
    batch = torch.randn(400, 120, 5), torch.full((400,), 120)
    with torch.inference_mode():
        found = projected(encoder.train(), batch)

    hidden = (found == 0).all(dim=2).float().mean().item()
    assert hidden == pytest.approx(expected_share(120, 6, 6), abs=0.006)

    # 0.25 * 32 / 6 = 1.33 spans: one or two, by one draw for the batch.
    channels = (found == 0).all(dim=1).float().mean().item()
    assert channels in (
        pytest.approx(expected_share(32, 1, 6), abs=0.01),
        pytest.approx(expected_share(32, 2, 6), abs=0.01),
    )


def test_what_cannot_be_augmented_is_refused() -> None:
    """Pictures have no frames to hide, and Whisper no embedding for them."""
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **test_layerwise.SMALL)
    with pytest.raises(ConfigError, match="expected one of sound or face features"):
        LayerwiseEncoder(VideoMAEModel(config)).augment(spans(time=0.1), learned=False)
    with pytest.raises(ConfigError, match=r"got learned for a whisper model .*expected zero"):
        make_encoder("whisper").augment(spans(time=0.1), learned=True)

"""LoRA learns in every family, changes nothing at its start, and merges into plain weights."""

import builtins
from typing import Any

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from shards.config import ConfigError
from tests.trainers.models.encoders import test_layerwise, test_more_families
from tests.trainers.models.encoders.test_layerwise import sounds
from tests.trainers.models.encoders.test_more_families import constant_prefix
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.lora import attach_lora, merge_lora
from trainers.models.parts.pooling import masked_mean

SPEECH = ["mel", *test_layerwise.FAMILIES, *test_more_families.FAMILIES]


def make_encoder(name: str) -> LayerwiseEncoder:
    if name in test_more_families.FAMILIES:
        return test_more_families.make_encoder(name)
    return test_layerwise.encoder_named(name)


def disturb(encoder: LayerwiseEncoder) -> None:
    """Set LoRA's matrices to what training could have made of them."""
    torch.manual_seed(5)
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)


@pytest.mark.parametrize("name", SPEECH)
def test_every_matrix_learns_and_nothing_else(name: str) -> None:
    """Each of LoRA's matrices gets a gradient, with a prefix too, and no other weight does."""
    encoder = make_encoder(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.inference_mode():
        plain = encoder(*sounds(), constant_prefix)[0]

    attach_lora(encoder, rank=2, alpha=4)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(*sounds(), constant_prefix)[0], plain)
    disturb(encoder)
    masked_mean(*encoder(*sounds(), constant_prefix)).square().sum().backward()

    learns = {key for key, value in encoder.named_parameters() if value.grad is not None}
    assert learns == {key for key, _ in encoder.named_parameters() if "lora_" in key}
    assert all(value.grad.norm() > 0 for key, value in encoder.named_parameters() if key in learns)

    projections = {"mel": 2}.get(name, 4)
    assert len(learns) == 2 * projections * len(encoder.layers)
    merge_lora(encoder)
    assert encoder.state_dict().keys() == before.keys()


@pytest.mark.parametrize("name", SPEECH)
def test_merged_equals_attached(name: str) -> None:
    """The plain weights of a merged encoder give what the attached matrices give, to 1e-5."""
    encoder, batch = make_encoder(name), sounds()
    with torch.inference_mode():
        plain = masked_mean(*encoder(*batch))
        attach_lora(encoder, rank=3, alpha=6)
        disturb(encoder)
        attached = masked_mean(*encoder(*batch))

        merge_lora(encoder)
        fresh = make_encoder(name)
        fresh.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(masked_mean(*fresh(*batch)), attached, rtol=0, atol=1e-5)
    assert (attached - plain).abs().max() > 1e-3


def test_the_scale_is_alpha_over_rank() -> None:
    """A merged weight is W + (alpha / rank) B A (Hu et al. 2021, Eq. 3)."""
    encoder = make_encoder("hubert-layer")
    projection = encoder.layers[0].attention.q_proj
    weight = projection.weight.detach().clone()
    attach_lora(encoder, rank=2, alpha=3)
    disturb(encoder)

    adapted: Any = encoder.layers[0].attention.q_proj
    product = adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
    merge_lora(encoder)
    torch.testing.assert_close(
        encoder.layers[0].attention.q_proj.weight, weight + 1.5 * product.detach()
    )


def test_videomae_learns_with_lora() -> None:
    """Each of the four projections of a layer gets its two matrices, and they learn."""
    torch.manual_seed(0)
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **test_layerwise.SMALL)
    encoder = LayerwiseEncoder(VideoMAEModel(config))
    attach_lora(encoder, rank=2, alpha=4)
    disturb(encoder)
    encoder(torch.randn(2, 4, 3, 16, 16), torch.tensor([4, 4]))[0].square().sum().backward()

    learns = [key for key, value in encoder.named_parameters() if value.grad is not None]
    assert len(learns) == 2 * 4 * 3
    assert all("lora_" in key for key in learns)


def test_without_peft_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the command that installs peft."""
    plain = builtins.__import__

    def refusing(name: str, *rest: Any) -> Any:
        if name.startswith("peft"):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ConfigError, match=r"pip install 'emostream\[lora\]'"):
        attach_lora(make_encoder("mel"), rank=2, alpha=4)

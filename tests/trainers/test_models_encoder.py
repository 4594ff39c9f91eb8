"""The seam before each layer: nothing changes without it, and with it a layer sees just what it was given."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    VideoMAEConfig,
    VideoMAEModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from trainers.models.encoder import LayerwiseEncoder
from trainers.models.pooling import masked_mean
from trainers.models.sequence_encoder import LayerInput, SequenceEncoder, SequenceEncoderConfig

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hubert-layer": (HubertConfig, HubertModel, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert-group": (HubertConfig, HubertModel, {"feat_extract_norm": "group"}),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {"feat_extract_norm": "layer"}),
    "wavlm": (WavLMConfig, WavLMModel, {"feat_extract_norm": "layer", "num_buckets": 20, "max_bucket_distance": 40}),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioModel, {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}),
}
LENGTHS = (3000, 1800, 2400)


def speech(family: str) -> LayerwiseEncoder:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config_class, model_class, options = FAMILIES[family]
    config = config_class(**SMALL, **(CONVOLUTIONS | options))
    return LayerwiseEncoder(model_class(config), normalise=options.get("feat_extract_norm") == "layer").eval()


def mel() -> LayerwiseEncoder:
    torch.manual_seed(0)
    return LayerwiseEncoder(SequenceEncoder(SequenceEncoderConfig(hidden_size=32))).eval()


def encoder_named(name: str) -> LayerwiseEncoder:
    return mel() if name == "mel" else speech(name)


def sounds(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    inputs = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(inputs, lengths, strict=True):
        row[:length] = torch.randn(length)
    return inputs, torch.tensor(lengths)


def unchanged(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
    return LayerInput(hidden, mask)


ALL = [*FAMILIES, "mel"]


@pytest.mark.parametrize("name", ALL)
def test_a_seam_that_changes_nothing_changes_nothing(name: str) -> None:
    """The hooks alone leave every number as it was."""
    encoder, batch = encoder_named(name), sounds()
    with torch.inference_mode():
        (plain, mask), (seamed, seamed_mask) = encoder(*batch), encoder(*batch, unchanged)
    assert torch.equal(mask, seamed_mask)
    torch.testing.assert_close(seamed[mask], plain[mask])


@pytest.mark.parametrize("name", [name for name in ALL if name != "data2vec"])
def test_pooled_features_do_not_depend_on_batchmates(name: str) -> None:
    """An utterance alone and padded beside longer ones, with a prefix and without."""
    encoder, (inputs, lengths) = encoder_named(name), sounds()

    def prefixed(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        prefix = torch.full((len(hidden), 2, 32), 0.3)
        return LayerInput(torch.cat([prefix, hidden], 1), torch.cat([mask[:, :1].expand(-1, 2), mask], 1), 2)

    for seam in (None, prefixed):
        with torch.inference_mode():
            together = masked_mean(*encoder(inputs, lengths, seam))
            alone = [
                masked_mean(*encoder(inputs[row : row + 1, :length], lengths[row : row + 1], seam))
                for row, length in enumerate(LENGTHS)
            ]
        torch.testing.assert_close(torch.cat(alone), together, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["hubert-layer", "hubert-group", "wav2vec2", "wavlm", "mel"])
def test_a_prefix_is_what_concatenation_by_hand_gives(name: str) -> None:
    """Layers run one after another by hand on [t_l; x], the prefix positions dropped in between (Eq. 6)."""
    encoder, (inputs, lengths) = encoder_named(name), sounds((2400, 2400))
    torch.manual_seed(3)
    prefixes = torch.randn(3, 2, 4, 32)
    inputs_seen: list[Tensor] = []

    def prefixed(layer: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        inputs_seen.append(hidden)
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([prefixes[layer], hidden], 1), torch.cat([taken, mask], 1), 4)

    with torch.inference_mode():
        found, _ = encoder(inputs, lengths, prefixed)
        hidden, bias = inputs_seen[0], None
        for layer, module in enumerate(encoder.layers):
            joined = torch.cat([prefixes[layer], hidden], dim=1)
            mask = torch.ones(joined.shape[:2], dtype=torch.bool)
            if name == "wavlm":
                joined, bias = module(joined, attention_mask=mask, position_bias=bias, index=layer)
            else:
                joined = module(joined, mask) if name == "mel" else module(joined)
            hidden = joined[:, 4:]
        final = encoder.model.norm(hidden) if name == "mel" else hidden
        if name == "hubert-layer":
            final = encoder.model.encoder.layer_norm(hidden)
    torch.testing.assert_close(found, final, rtol=1e-4, atol=1e-5)


def test_a_prefix_reaches_data2vec() -> None:
    """A prefix changes every frame, and their number stays."""
    encoder, batch = encoder_named("data2vec"), sounds()

    def prefixed(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        taken = torch.ones(len(hidden), 3, dtype=torch.bool)
        return LayerInput(torch.cat([100 * torch.randn(len(hidden), 3, 32), hidden], 1), torch.cat([taken, mask], 1), 3)

    with torch.inference_mode():
        (plain, mask), (changed, changed_mask) = encoder(*batch), encoder(*batch, prefixed)
    assert torch.equal(mask, changed_mask)
    assert plain.shape == changed.shape
    assert ((plain - changed)[mask].abs().max(dim=1).values > 1e-3).all()


def test_videomae_takes_prefixes() -> None:
    """Its layers sit under another name and have no mask."""
    torch.manual_seed(0)
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **SMALL)
    encoder = LayerwiseEncoder(VideoMAEModel(config)).eval()
    pixels = torch.randn(2, 4, 3, 16, 16)

    def prefixed(_: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        taken = torch.ones(2, 4, dtype=torch.bool)
        return LayerInput(torch.cat([torch.ones(2, 4, 32), hidden], 1), torch.cat([taken, mask], 1), 4)

    with torch.inference_mode():
        plain, mask = encoder(pixels, torch.tensor([4, 4]))
        changed, _ = encoder(pixels, torch.tensor([4, 4]), prefixed)
    assert plain.shape == changed.shape == (2, 8, 32)
    assert mask.all()
    assert not torch.allclose(plain, changed, atol=1e-3)

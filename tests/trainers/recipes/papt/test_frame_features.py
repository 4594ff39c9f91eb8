"""Cepstra are those of their definition, and layers those of transformers' own output."""

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.cepstra import NUM_MEL_BANDS
from trainers.models.parts.log_mel import WINDOW_SAMPLES, log_mel, mel_filters
from trainers.recipes.papt.frame_features import LayerFeatures, Mfcc


def sounds() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    samples = torch.randn(2, 4000)
    samples[1, 2500:] = 0
    return samples, torch.tensor([4000, 2500])


def test_cepstra_and_their_slopes_by_definition() -> None:
    """Cepstra are the cosine transform of log energies; slopes are regressions over five frames."""
    samples, lengths = sounds()
    found = Mfcc()(samples, lengths)

    bands = log_mel(samples[:1], torch.hann_window(WINDOW_SAMPLES), mel_filters(NUM_MEL_BANDS))[
        0
    ].numpy()

    n, k = np.arange(NUM_MEL_BANDS), np.arange(13)[:, None]
    cosines = np.sqrt(2 / NUM_MEL_BANDS) * np.cos(np.pi * k * (2 * n + 1) / (2 * NUM_MEL_BANDS))
    cosines[0] /= np.sqrt(2)
    cepstra = bands @ cosines.T

    around = np.pad(cepstra, ((2, 2), (0, 0)), mode="edge")
    slopes = (2 * (around[4:] - around[:-4]) + around[3:-1] - around[1:-3]) / 10

    np.testing.assert_allclose(found[0][:, :13], cepstra, atol=1e-3)
    np.testing.assert_allclose(found[0][:, 13:26], slopes, atol=1e-3)
    assert found[0].shape == ((4000 - 400) // 160 + 1, 39)


def test_padding_changes_no_cepstrum() -> None:
    """An utterance has the same features alone and in a batch."""
    samples, lengths = sounds()
    alone = Mfcc()(samples[1:, :2500], lengths[1:])[0]
    np.testing.assert_allclose(Mfcc()(samples, lengths)[1], alone, atol=1e-5)


def small_hubert() -> HubertModel:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    convolutions = {
        "conv_dim": (16, 16),
        "conv_kernel": (10, 3),
        "conv_stride": (5, 2),
        "num_feat_extract_layers": 2,
    }

    return HubertModel(
        HubertConfig(feat_extract_norm="layer", num_conv_pos_embeddings=8, **sizes, **convolutions)
    )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_is_what_transformers_puts_out(layer: int) -> None:
    """Layer k of an utterance without padding is `hidden_states[k]`."""
    model = small_hubert().eval()
    samples, lengths = sounds()
    with torch.inference_mode():
        expected = model(samples[:1], output_hidden_states=True).hidden_states[layer][0]
    features = LayerFeatures(LayerwiseEncoder(model), layer)
    np.testing.assert_allclose(features(samples[:1], lengths[:1])[0], expected.numpy(), atol=1e-5)
    assert features.hop_samples == 10


def test_a_layer_that_is_not_there_is_refused() -> None:
    """The message says how many layers there are."""
    with pytest.raises(ConfigError, match="label_layer: got 4, expected 1 to 3"):
        LayerFeatures(LayerwiseEncoder(small_hubert()), 4)

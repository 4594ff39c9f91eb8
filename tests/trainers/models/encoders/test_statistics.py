"""The encoder without weights measures each utterance by itself, by the functionals."""

import numpy as np
import pytest
import torch

from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.statistics import StatisticsEncoder, StatisticsEncoderConfig
from trainers.models.parts.functionals import CepstralFunctionals, over_time


def test_padding_and_batchmates_change_nothing() -> None:
    """A short utterance beside a long one has the functionals of its own samples."""
    encoder = LayerwiseEncoder(StatisticsEncoder(StatisticsEncoderConfig()))
    samples_NS, lengths_N = torch.randn(2, 16_000), torch.tensor([5_000, 16_000])
    frames_N1D, mask_N1 = encoder(samples_NS, lengths_N)

    assert frames_N1D.shape == (2, 1, encoder.width) == (2, 1, 80)
    assert mask_N1.all()
    expected_D = CepstralFunctionals()(samples_NS[0, :5_000])
    np.testing.assert_array_equal(frames_N1D[0, 0].numpy(), expected_D)


def test_faces_are_measured_over_time() -> None:
    """Face features of F numbers become 4 F: mean and deviation, of them and of their slopes."""
    config = StatisticsEncoderConfig(front_end="face", feature_size=5)
    encoder = LayerwiseEncoder(StatisticsEncoder(config))
    assert (encoder.modality, encoder.width) == ("face", 20)

    features_NTF = torch.randn(1, 9, 5)
    frames_N1D, _ = encoder(features_NTF, torch.tensor([9]))
    assert frames_N1D[0, 0].numpy() == pytest.approx(over_time(features_NTF[0]))

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForAudioClassification

from trainers.models.classifiers.mel import MelClassifier, MelClassifierConfig
from trainers.models.encoders.registry import register_models


@pytest.fixture(scope="module")
def model() -> MelClassifier:
    torch.manual_seed(0)
    return MelClassifier(MelClassifierConfig(num_labels=7)).eval()


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, num_samples, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1_600, 20_000), st.integers(1_600, 20_000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_padding_has_no_influence(
    model: MelClassifier, num_samples: int, other: int, garbage: bool
) -> None:
    """Logits beside a longer recording equal logits alone, even when the padding is not silence."""
    longest = max(num_samples, other)
    batch = torch.full((2, longest), 0.3 if garbage else 0.0)
    batch[0, :num_samples], batch[1, :other] = noise(num_samples)[0], noise(other, seed=1)[0]
    mask = torch.arange(longest) < torch.tensor([[num_samples], [other]])
    with torch.inference_mode():
        alone = model(noise(num_samples)).logits
        beside = model(batch, attention_mask=mask).logits
    torch.testing.assert_close(beside[:1], alone, rtol=0, atol=1e-5)


def test_log_mel_against_a_direct_fourier_sum(model: MelClassifier) -> None:
    """One frame's band energies equal the Fourier sum and filters computed by hand in float64."""
    samples = noise(560)
    frame = samples[0, 160:560].double().numpy() * np.hanning(401)[:-1]
    angles = np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    expected = np.log((np.abs(angles @ frame) ** 2) @ model.filters.double().numpy())
    np.testing.assert_allclose(model.log_mel(samples)[0, 1], expected, atol=2e-4)


def test_loudness_is_kept(model: MelClassifier) -> None:
    """Ten times the amplitude raises every log energy by log 100, as nothing normalizes it."""
    difference = model.log_mel(10 * noise(8_000)) - model.log_mel(noise(8_000))
    torch.testing.assert_close(
        difference, torch.full_like(difference, np.log(100)), atol=1e-3, rtol=0
    )


def test_a_pure_tone_lands_in_its_band(model: MelClassifier) -> None:
    """1 kHz is loudest in the band whose filter peaks nearest to it."""
    time = torch.arange(8_000) / 16_000
    band = (
        model.log_mel(torch.sin(2 * torch.pi * 1_000 * time).unsqueeze(0))
        .mean(dim=1)
        .argmax()
        .item()
    )
    assert abs(model.filters[:, band].argmax().item() * 40 - 1_000) <= 40


def test_statistics_travel_with_the_weights(model: MelClassifier, tmp_path: Path) -> None:
    """A saved model, loaded by the ordinary Auto class, gives the same answers.

    Calling register_models twice changes nothing.
    """
    model.set_statistics(torch.linspace(-12, -6, 80), torch.linspace(1, 3, 80))
    model.save_pretrained(tmp_path)
    register_models()
    register_models()
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path, use_safetensors=True).eval()
    assert isinstance(loaded, MelClassifier)
    torch.testing.assert_close(loaded.feature_mean, torch.linspace(-12, -6, 80))
    torch.testing.assert_close(loaded(noise(9_000)).logits, model(noise(9_000)).logits)


def test_default_size_is_the_measured_one(model: MelClassifier) -> None:
    """The default size is about 0.18 million parameters, as in the probe that chose it."""
    assert 170_000 < sum(parameter.numel() for parameter in model.parameters()) < 190_000


def test_it_learns_a_loud_and_a_quiet_class() -> None:
    """Loudness alone separates two classes within a few steps, and gradients reach every part."""
    torch.manual_seed(0)
    small = MelClassifier(
        MelClassifierConfig(num_labels=2, num_hidden_layers=1, dropout_probability=0.0)
    )

    batch = torch.cat([scale * noise(4_000, seed) for seed in range(4) for scale in (1.0, 0.05)])
    labels = torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam(small.parameters(), lr=3e-3)

    for _ in range(25):
        optimizer.zero_grad()
        small(batch, labels=labels).loss.backward()
        optimizer.step()

    assert all(parameter.grad is not None for parameter in small.parameters())
    assert (small.eval()(batch).logits.argmax(dim=-1) == labels).all()

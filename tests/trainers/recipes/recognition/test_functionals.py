"""Functionals equal librosa's definitions by hand, and openSMILE's where it is installed."""

import sys

import numpy as np
import pytest
import torch

from shards.config import ConfigError
from trainers.recipes.recognition.functionals import functionals_of, over_time


def test_a_ramp_by_hand() -> None:
    """Features 0, 2, ..., 18 have mean 9 and deltas of 2, which are less at the edges.

    There, the first and last frame repeat.
    """
    found = over_time(torch.arange(0.0, 20.0, 2.0)[:, None])
    deltas = [1.0, 1.6, *[2.0] * 6, 1.6, 1.0]
    expected = [9.0, np.std(np.arange(0, 20, 2)), np.mean(deltas), np.std(deltas)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_loudness_moves_only_the_first_cepstrum() -> None:
    """Ten times the amplitude adds the same to every log band, so only cepstrum 0 changes."""
    measure = functionals_of("cepstra", "audio")
    sound = 0.05 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    soft, loud = measure(sound), measure(10 * sound)
    assert soft.shape == (80,)
    assert loud[0] - soft[0] == pytest.approx(np.log(100) * np.sqrt(40), rel=1e-3)
    np.testing.assert_allclose(loud[1:], soft[1:], atol=1e-2)


def test_the_shortest_sound_has_functionals() -> None:
    """One frame has functionals, although it has neither spread nor slope."""
    found = functionals_of("cepstra", "audio")(torch.ones(10))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[20:], 0.0, atol=1e-6)


def test_pictures_by_hand() -> None:
    """A clip whose left half brightens by 1 a picture has that mean, spread and slope there only.

    A part of a picture is 2 x 2 of its 16 x 16 pixels.
    """
    clip = torch.zeros(10, 3, 16, 16)
    clip[:, 0, :, :8] = torch.arange(10.0)[:, None, None]
    found = functionals_of("cepstra", "video")(clip).reshape(4, 3, 8, 8)

    deltas = [0.5, 0.8, *[1.0] * 6, 0.8, 0.5]
    expected = [4.5, np.std(np.arange(10)), np.mean(deltas), np.std(deltas)]
    for measured, value in zip(found[:, 0, :, :4], expected, strict=True):
        np.testing.assert_allclose(measured, value, rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, :, 4:], 0.0, atol=1e-7)
    np.testing.assert_allclose(found[:, 1:], 0.0, atol=1e-7)


def test_compare_is_opensmiles() -> None:
    """ComParE has 6373 numbers, which are NaN when the sound is too short."""
    pytest.importorskip("opensmile")
    measure = functionals_of("compare", "audio")
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert measure(noise).shape == (6373,)
    assert np.isfinite(measure(noise)).all()
    with pytest.warns(UserWarning, match="too short"):
        assert np.isnan(measure(noise[:200])).all()


def test_what_compare_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComParE asks for sound and for the extra that it needs."""
    with pytest.raises(ConfigError, match="because ComParE is for sound"):
        functionals_of("compare", "face")
    with pytest.raises(ConfigError, match="got compare for data"):
        functionals_of("compare", "video")
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(ConfigError, match=r"pip install 'emostream\[opensmile\]'"):
        functionals_of("compare", "audio")

"""The acoustic targets: openSMILE's descriptors, and descriptors that need no license."""

import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.inference.outcomes import Missing
from actors.labeling.labelers.acoustics import Acoustics
from actors.labeling.labelers.config import AcousticsConfig
from shards.config import ConfigError
from shards.media.sound_format import SAMPLE_RATE_HZ

PITCH = "F0semitoneFrom27.5Hz_sma3nz"
Features = Literal["egemaps", "egemaps-32-16", "builtin"]


def half_voiced() -> NDArray[np.float32]:
    """A second of a voice-like tone at 220 Hz, and a second of faint noise."""
    time = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    waves = [0.2 / number * np.sin(2 * np.pi * 220 * number * time) for number in range(1, 8)]
    noise = 1e-3 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ)
    return np.concatenate([np.sum(waves, axis=0), noise]).astype(np.float32)


def acoustics(features: Features, frames: Literal["all", "voiced"]) -> Acoustics:
    if features != "builtin":
        pytest.importorskip("opensmile")

    made = Acoustics(AcousticsConfig(features=features, frames=frames))
    made.setup()
    return made


def values(made: Acoustics, waveform: NDArray[np.float32]) -> dict[str, float]:
    (outcome,) = made.compute([waveform])
    assert isinstance(outcome, np.ndarray)
    assert (outcome.shape, outcome.dtype) == ((25,), np.float32)
    return dict(zip(made.names, outcome.tolist(), strict=True))


@pytest.mark.parametrize(
    ("features", "pitch"), [("builtin", "pitch_semitones"), ("egemaps", PITCH)]
)
def test_a_mean_over_voiced_frames_is_the_pitch_of_the_voice(
    features: Features, pitch: str
) -> None:
    """220 Hz lie 36 semitones above 27.5 Hz; over all frames, half of them count as 0."""
    voiced = values(acoustics(features, "voiced"), half_voiced())
    overall = values(acoustics(features, "all"), half_voiced())

    assert voiced[pitch] == pytest.approx(12 * np.log2(220 / 27.5), abs=0.5)
    assert overall[pitch] == pytest.approx(voiced[pitch] / 2, rel=0.1)


@pytest.mark.parametrize(
    ("features", "pitch"), [("builtin", "pitch_semitones"), ("egemaps", PITCH)]
)
def test_a_voiceless_utterance_has_no_pitch(features: Features, pitch: str) -> None:
    """What has no voice has an unknown pitch, and not a pitch of 0."""
    silence = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    found = values(acoustics(features, "voiced"), silence)

    assert np.isnan(found[pitch])
    assert np.isfinite(list(found.values())).sum() >= 10


def test_means_over_voiced_frames_are_egemaps_own_functionals() -> None:
    """Pitch, jitter, shimmer and harmonics-to-noise ratio are `_amean`, to four decimals."""
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    own = smile.process_signal(half_voiced(), SAMPLE_RATE_HZ).iloc[0]
    found = values(acoustics("egemaps", "voiced"), half_voiced())

    for name in (PITCH, "jitterLocal_sma3nz", "shimmerLocaldB_sma3nz", "HNRdBACF_sma3nz"):
        assert found[name] == pytest.approx(own[f"{name}_amean"], abs=1e-4)


def test_the_papers_frames_are_32_ms_every_16_ms() -> None:
    """The same 25 descriptors, at 62.5 frames a second where eGeMAPS has 100."""
    stock, paper = acoustics("egemaps", "all"), acoustics("egemaps-32-16", "all")

    assert stock.names == paper.names
    rates = [_num_frames(made) / 2.0 for made in (stock, paper)]
    assert rates == pytest.approx([100.0, 62.5], abs=4.0)
    assert np.isfinite(list(values(paper, half_voiced()).values())).all()


@pytest.mark.parametrize(
    ("features", "frames"),
    [("egemaps", ("0.060", "0.020", "0.010")), ("egemaps-32-16", ("0.032", "0.032", "0.016"))],
)
def test_means_are_those_of_opensmile_called_directly(
    tmp_path: Path, features: Features, frames: tuple[str, str, str]
) -> None:
    """Over all frames they are the means of what openSMILE gives for a configuration by hand."""
    opensmile = pytest.importorskip("opensmile")
    shutil.copytree(Path(opensmile.__file__).parent / "core" / "config", tmp_path / "config")

    core = tmp_path / "config" / "gemaps" / "v01b" / "GeMAPSv01b_core.lld.conf.inc"
    text = core.read_text()
    for name, stock, wanted in zip(
        ("Size", "Size", "Step"), ("0.060", "0.020", "0.010"), frames, strict=True
    ):
        assert f"frame{name} = {stock}" in text
        text = text.replace(f"frame{name} = {stock}", f"frame{name} = {wanted}")
    core.write_text(text)

    smile = opensmile.Smile(str(tmp_path / "config" / "egemaps" / "v02" / "eGeMAPSv02.conf"), "lld")
    means = smile.process_signal(half_voiced(), SAMPLE_RATE_HZ).mean()
    found = values(acoustics(features, "all"), half_voiced())
    assert found == pytest.approx(means.to_dict(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("features", ["egemaps", "egemaps-32-16"])
def test_without_opensmile_the_error_names_both_remedies(
    monkeypatch: pytest.MonkeyPatch, features: Features
) -> None:
    """The command that installs it, and the descriptors that do not need it."""
    monkeypatch.setitem(sys.modules, "opensmile", None)

    with pytest.raises(ConfigError, match=r"pip install 'emostream\[opensmile\]'.*builtin"):
        Acoustics(AcousticsConfig(features=features)).setup()


def test_a_recording_without_a_whole_frame_is_named() -> None:
    """Under 0.1 s nothing can be averaged."""
    (short,) = acoustics("builtin", "voiced").compute([half_voiced()[:100]])

    assert isinstance(short, Missing)
    assert short.reason.startswith("audio_too_short")


def _num_frames(made: Acoustics) -> int:
    smile: Any = made._smile
    return len(smile.process_signal(half_voiced(), SAMPLE_RATE_HZ))

"""Model input from waveforms, against transformers' own feature extractors."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from actors.inference.waveforms import RawInputs, checkpoint_inputs

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1_600, 5_000), min_size=1, max_size=5)


@given(lengths, st.integers(0, 1_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_raw_inputs_equal_the_feature_extractor(
    sizes: list[int], seed: int, normalize: bool
) -> None:
    """Padding, mask and normalization are those of Wav2Vec2FeatureExtractor."""
    generator = np.random.default_rng(seed)
    waveforms = [(0.2 + 0.1 * generator.normal(size=size)).astype(np.float32) for size in sizes]

    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    expected = extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")

    found = RawInputs(normalize=normalize)(waveforms, CPU)

    torch.testing.assert_close(found["input_values"], expected["input_values"], rtol=0, atol=2e-5)
    if len(set(sizes)) > 1:
        assert (found["attention_mask"] == expected["attention_mask"]).all()
    else:
        assert "attention_mask" not in found
        assert expected["attention_mask"].all()


def test_read_only_waveforms_are_accepted() -> None:
    """Arrays from the object store, which are read-only views, are accepted."""
    waveform = np.ones(2_000, np.float32)
    waveform.flags.writeable = False
    assert RawInputs(normalize=True)([waveform], CPU)["input_values"].shape == (1, 2_000)


def test_spectrogram_models_get_their_own_features(tmp_path: Path) -> None:
    """Whisper and AST checkpoints get their own features, and the length at which they cut."""
    for name, extractor, longest in (
        ("whisper", WhisperFeatureExtractor(), 480_000),
        ("ast", ASTFeatureExtractor(max_length=200), 32_000),
    ):
        extractor.save_pretrained(tmp_path / name)
        inputs = checkpoint_inputs(tmp_path / name)
        assert inputs.max_samples == longest

        waveforms = [np.random.default_rng(0).normal(size=8_000).astype(np.float32)] * 2
        expected = extractor(waveforms, sampling_rate=16_000, return_tensors="pt")
        for key, values in inputs(waveforms, CPU).items():
            torch.testing.assert_close(values, expected[key])

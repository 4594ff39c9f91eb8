"""From waveforms to model input, prepared as the checkpoint was trained.

There are two ways. Models on raw waveforms (wav2vec 2.0, HuBERT, WavLM, data2vec, and the project's
own) get padded samples, normalized here on the device: the feature extractor does the same in
numpy, which would leave a GPU waiting. Models on spectrograms (Whisper encoders, AST,
wav2vec2-BERT) get what their own feature extractor makes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from shards.config import ConfigError
from shards.media.padding import pad
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from trainers.models.parts.waveforms import normalized


class WaveformInputs(Protocol):
    """Turns waveforms into the keyword arguments of a model, up to `max_samples` long."""

    @property
    def max_samples(self) -> int | None:
        """The length that is read of a waveform; None when any length is read."""

    def __call__(self, waveforms: Sequence[Waveform], device: torch.device) -> dict[str, Tensor]:
        """Model input for a batch; it holds a mask whenever the lengths differ."""


class RawInputs:
    """Zero-padded samples.

    With `normalize`, each waveform has zero mean and unit variance over its own length.
    """

    max_samples: int | None = None

    def __init__(self, *, normalize: bool) -> None:
        self._normalize = normalize

    def __call__(self, waveforms: Sequence[Waveform], device: torch.device) -> dict[str, Tensor]:
        padded, lengths = pad(waveforms)
        samples = to_device(torch.from_numpy(padded), device)

        if lengths.min() == lengths.max():
            return {"input_values": normalized(samples, None) if self._normalize else samples}

        ends = torch.from_numpy(lengths).to(device).unsqueeze(1)
        mask = torch.arange(padded.shape[1], device=device) < ends
        values = normalized(samples, mask) if self._normalize else samples
        return {"input_values": values, "attention_mask": mask.long()}


class ExtractedInputs:
    """What the checkpoint's own feature extractor makes of 16 kHz samples."""

    def __init__(self, extractor: Any, max_samples: int | None) -> None:
        self._extractor = extractor
        self.max_samples = max_samples

    def __call__(self, waveforms: Sequence[Waveform], device: torch.device) -> dict[str, Tensor]:
        batch = self._extractor(list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        return {name: to_device(values, device) for name, values in batch.items()}


def checkpoint_inputs(folder: Path) -> WaveformInputs:
    """The inputs that the checkpoint's `preprocessor_config.json` describes."""
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"checkpoint {folder}: no usable preprocessor_config.json: {error}"
        ) from error

    if extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise ConfigError(
            f"checkpoint {folder}: expects {extractor.sampling_rate} Hz; only {SAMPLE_RATE_HZ} Hz "
            "models are supported"
        )

    if isinstance(extractor, Wav2Vec2FeatureExtractor):
        return RawInputs(normalize=extractor.do_normalize)
    return ExtractedInputs(extractor, _longest_input(extractor, folder))


def cast_floats(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Model input in the model's own format; masks stay integers."""
    return {
        name: values.to(dtype) if values.is_floating_point() else values
        for name, values in inputs.items()
    }


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; a GPU copies from pinned memory, which waits for no work queued there."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _longest_input(extractor: Any, folder: Path) -> int | None:
    """The number of samples after which an extractor truncates silently; None: it never does."""
    name = type(extractor).__name__

    if name == "WhisperFeatureExtractor":
        return int(extractor.n_samples)
    if name == "ASTFeatureExtractor":
        return int(extractor.max_length * 0.01 * SAMPLE_RATE_HZ)
    if name == "SeamlessM4TFeatureExtractor":
        return None

    raise ConfigError(
        f"checkpoint {folder}: feature extractor {name} is not supported; expected one of "
        "Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, ASTFeatureExtractor, "
        "SeamlessM4TFeatureExtractor"
    )

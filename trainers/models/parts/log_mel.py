"""Log-mel energies of a waveform: the front end of the small models, which keeps the loudness.

Frames are not centered, so that each frame either sees samples of its own utterance or is masked.

Shapes: B batch, S samples, T frames, W samples of a window, F frequencies, M mel bands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from shards.media.sound_format import SAMPLE_RATE_HZ

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
ENERGY_FLOOR = 1e-8  # about -80 dB: below it a recording holds nothing but its own rounding


def log_mel(input_values: Tensor, window_W: Tensor, filters_FM: Tensor) -> Tensor:
    """Log energies [B, T, M] of `input_values` [B, S], where T = (S - 400) // 160 + 1.

    They are float32 whatever the precision of the weights.
    """
    samples_BS = F.pad(input_values.float(), (0, max(0, WINDOW_SAMPLES - input_values.shape[-1])))
    frames_BTW = samples_BS.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * window_W.float()
    spectrum_BTF = torch.fft.rfft(frames_BTW)
    # Seven times as fast as abs().square().
    power_BTF = spectrum_BTF.real.square() + spectrum_BTF.imag.square()
    return (power_BTF @ filters_FM.float()).clamp_min(ENERGY_FLOOR).log()


def num_frames(input_values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Count the valid log-mel frames [B]; a waveform shorter than a window counts as one frame."""
    if attention_mask is None:
        samples_B = torch.full(
            (len(input_values),), input_values.shape[-1], device=input_values.device
        )
    else:
        samples_B = attention_mask.sum(dim=-1).long()
    return (samples_B - WINDOW_SAMPLES).clamp_min(0) // HOP_SAMPLES + 1


def mel_filters(num_mel_bands: int) -> Tensor:
    """Triangular filters [F, M] on the HTK mel scale, 40 Hz to 8 kHz."""
    filters = mel_filter_bank(
        num_frequency_bins=WINDOW_SAMPLES // 2 + 1,
        num_mel_filters=num_mel_bands,
        min_frequency=40.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        mel_scale="htk",
    )
    return torch.from_numpy(filters).float()

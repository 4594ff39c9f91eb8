"""Log-mel energies as the feature extractors of Whisper and w2v-BERT make them, on the device.

transformers' own extractors work on the CPU, utterance by utterance, which would put numpy between
a batch on a GPU and its encoder. Tests compare the two.

Shapes: N utterances, S samples, T frames, W samples of a window, F frequencies, M mel bands.
"""

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, window_function

from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.parts.layers import frame_mask

KALDI_WINDOW_SAMPLES, KALDI_HOP_SAMPLES = 400, 160
_KALDI_FFT, _KALDI_FLOOR, _PREEMPHASIS = 512, 1.192092955078125e-07, 0.97
_FULL_SCALE = 2.0**15  # Kaldi reads 16-bit integers

WHISPER_WINDOW_SAMPLES, WHISPER_HOP_SAMPLES = 400, 160
_WHISPER_FLOOR, _WHISPER_RANGE = 1e-10, 8.0  # in powers of ten below the loudest


class KaldiLogMel:
    """Kaldi's filter bank, each band normalized over the utterance: w2v-BERT's input."""

    def __init__(self, num_bands: int) -> None:
        filters = mel_filter_bank(
            num_frequency_bins=_KALDI_FFT // 2 + 1,
            num_mel_filters=num_bands,
            min_frequency=20,
            max_frequency=SAMPLE_RATE_HZ // 2,
            sampling_rate=SAMPLE_RATE_HZ,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self._filters_FM = torch.from_numpy(filters).float()
        window = window_function(KALDI_WINDOW_SAMPLES, "povey", periodic=False)
        self._window_W = torch.from_numpy(window).float()

    def __call__(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        """Compute [N, T, M] of utterances that are `lengths_N` samples long, at least 560.

        Frames behind an utterance's end are zero.
        """
        frames_NTW = samples_NS.float().unfold(-1, KALDI_WINDOW_SAMPLES, KALDI_HOP_SAMPLES)
        frames_NTW = frames_NTW * _FULL_SCALE
        frames_NTW = frames_NTW - frames_NTW.mean(dim=-1, keepdim=True)

        # Each sample less a part of the one before; the first one less that part of itself.
        before_NTW = torch.cat([frames_NTW[..., :1], frames_NTW[..., :-1]], dim=-1)
        frames_NTW = (frames_NTW - _PREEMPHASIS * before_NTW) * self._window_W.to(samples_NS.device)
        spectrum_NTF = torch.fft.rfft(frames_NTW, n=_KALDI_FFT)
        power_NTF = spectrum_NTF.real.square() + spectrum_NTF.imag.square()
        energies_NTM = power_NTF @ self._filters_FM.to(samples_NS.device)

        num_frames_N = (lengths_N - KALDI_WINDOW_SAMPLES) // KALDI_HOP_SAMPLES + 1
        return _standardized(energies_NTM.clamp_min(_KALDI_FLOOR).log(), num_frames_N)


class WhisperLogMel:
    """Whisper's input, [N, M, T] of sound that is padded with silence."""

    def __init__(self, num_bands: int) -> None:
        filters = mel_filter_bank(
            num_frequency_bins=WHISPER_WINDOW_SAMPLES // 2 + 1,
            num_mel_filters=num_bands,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=SAMPLE_RATE_HZ,
            norm="slaney",
            mel_scale="slaney",
        )
        self._filters_FM = torch.from_numpy(filters).float()

    def __call__(self, samples_NS: Tensor) -> Tensor:
        """Compute [N, M, S / 160]; the range is cut 8 powers of ten below the loudest."""
        spectrum_NFT = torch.stft(
            samples_NS.float(),
            WHISPER_WINDOW_SAMPLES,
            WHISPER_HOP_SAMPLES,
            window=torch.hann_window(WHISPER_WINDOW_SAMPLES, device=samples_NS.device),
            return_complex=True,
        )[..., :-1]
        power_NFT = spectrum_NFT.real.square() + spectrum_NFT.imag.square()
        energies_NMT = self._filters_FM.to(samples_NS.device).T @ power_NFT

        logs_NMT = energies_NMT.clamp_min(_WHISPER_FLOOR).log10()
        loudest_N11 = logs_NMT.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(logs_NMT, loudest_N11 - _WHISPER_RANGE) + 4.0) / 4.0


def _standardized(energies_NTM: Tensor, num_frames_N: Tensor) -> Tensor:
    """Mean 0 and variance 1 of each band over the utterance's own frames, zero behind them."""
    outside_NT1 = ~frame_mask(num_frames_N, energies_NTM.shape[1]).unsqueeze(-1)
    count_N11 = num_frames_N[:, None, None]

    mean = energies_NTM.masked_fill(outside_NT1, 0.0).sum(dim=1, keepdim=True) / count_N11
    centered_NTM = (energies_NTM - mean).masked_fill(outside_NT1, 0.0)
    variance = centered_NTM.square().sum(dim=1, keepdim=True) / (count_N11 - 1)
    return centered_NTM / torch.sqrt(variance + 1e-7)

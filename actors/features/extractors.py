"""Frozen encoders as extractors: they turn sound into the frames of some hidden states.

A long recording is heard in windows, whose frames are put one behind another. What an utterance
gives does not depend on the others of its batch. Frames are kept as float16, which halves them; a
frame with a number beyond its range is a reason, and never infinity.

Shapes: N utterances, S samples, T frames, L layers, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.embedding.config import EmbedderConfig, folder_of
from actors.features.config import LayerChoice
from actors.inference.batching import plan_batches
from actors.inference.outcomes import Missing, run_batches
from actors.inference.runtime import prepare_torch
from actors.inference.windows import MIN_SAMPLES, cut_windows
from shards.config import ConfigError
from shards.media.padding import pad
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.parts.cepstra import Cepstra
from trainers.models.parts.device import default_device
from trainers.models.personal.adapted_encoder import load_speakers
from trainers.models.recognizer import is_recognizer
from trainers.models.trained import load_trained

NUM_CEPSTRA = 40
WINDOW_SECONDS = 60.0
GPU_SECONDS = 240.0  # of sound in a batch; a CPU is faster with one window at a time

Frames: TypeAlias = NDArray[np.float16] | Missing


class Extractor(Protocol):
    """What makes frames, after `setup` has loaded it."""

    def setup(self, num_threads: int) -> None:
        """Load the encoder. Raises ConfigError when it cannot be used."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the hidden states, in the order of the second axis of the frames."""

    @property
    def width(self) -> int:
        """How many numbers a frame of one layer has."""

    def frames(self, waveforms: Sequence[Waveform]) -> list[Frames]:
        """The frames [T, L, D] of each utterance, or the reason why it has none."""


def make_extractor(encoder: EmbedderConfig, layers: LayerChoice) -> Extractor:
    """The extractor of a configuration; nothing is loaded yet."""
    return SpectralExtractor(layers) if encoder.is_spectral else EncoderExtractor(encoder, layers)


class SpectralExtractor:
    """Mel cepstra 1 to 39, every 10 ms: the baseline that needs no weights."""

    def __init__(self, layers: LayerChoice) -> None:
        self._choice = layers

    def setup(self, num_threads: int) -> None:
        """Make the filters. Raises ConfigError for layers, of which cepstra have only one."""
        prepare_torch(num_threads)
        self.layers = self._choice.numbers(1)
        self.width = NUM_CEPSTRA - 1
        self._cepstra = Cepstra(NUM_CEPSTRA)

    def frames(self, waveforms: Sequence[Waveform]) -> list[Frames]:
        """The frames [T, 1, 39] of each utterance, or the reason why it has none."""
        return [self._frames(waveform) for waveform in waveforms]

    def _frames(self, waveform: Waveform) -> Frames:
        if len(waveform) < MIN_SAMPLES:
            return _too_short()

        cepstra_TD = self._cepstra(torch.from_numpy(waveform)[None])[0][:, 1:]
        return _usable(cepstra_TD[:, None].astype(np.float16))


class EncoderExtractor:
    """A pretrained encoder, or that of a recognizer that is not personalized."""

    def __init__(self, encoder: EmbedderConfig, layers: LayerChoice) -> None:
        self._config, self._choice = encoder, layers

    def setup(self, num_threads: int) -> None:
        """Load the weights onto this process's GPU, or the CPU.

        Raises ConfigError when the folder holds no encoder of sound, a personalized one, or fewer
        layers than were asked for.
        """
        prepare_torch(num_threads)
        self._device = default_device()

        self._encoder = _load(folder_of(self._config)).eval().to(self._device)
        self.layers = self._choice.numbers(len(self._encoder.layers) + 1)
        self.width = self._encoder.width

    def frames(self, waveforms: Sequence[Waveform]) -> list[Frames]:
        """The frames [T, L, D] of each utterance, or the reason why it has none."""
        longest = round(WINDOW_SECONDS * SAMPLE_RATE_HZ)
        windows: list[Waveform] = []
        spans: list[range] = []
        for waveform in waveforms:
            first = len(windows)
            if len(waveform) >= MIN_SAMPLES:
                windows += [waveform[part] for part in cut_windows(len(waveform), longest)]
            spans.append(range(first, len(windows)))

        found = self._of_windows(windows)
        return [
            _usable(np.concatenate([found[place] for place in span])) if span else _too_short()
            for span in spans
        ]

    def _of_windows(self, windows: Sequence[Waveform]) -> list[NDArray[np.float16]]:
        budget = round(GPU_SECONDS * SAMPLE_RATE_HZ) if self._device.type == "cuda" else 0
        batches = plan_batches([len(window) for window in windows], budget=budget)
        rows = run_batches(
            batches, lambda batch: self._forward([windows[place] for place in batch])
        )

        lengths_N = torch.tensor([len(window) for window in windows], dtype=torch.long)
        counts = self._encoder.num_frames(lengths_N).tolist() if windows else []
        return [rows[place][:count].numpy() for place, count in enumerate(counts)]

    @torch.inference_mode()
    def _forward(self, waveforms: Sequence[Waveform]) -> Tensor:
        """The frames [N, T, L, D] of a batch, padding included."""
        padded, lengths = pad(waveforms)
        states, _ = self._encoder.hidden_states(
            torch.from_numpy(padded).to(self._device), torch.from_numpy(lengths).to(self._device)
        )

        chosen_NTLD = torch.stack([states[number] for number in self.layers], dim=2)
        return chosen_NTLD.half()


def _load(folder: Path) -> LayerwiseEncoder:
    """The encoder of a folder.

    Raises ConfigError when it is none of sound, is personalized, or cannot be loaded.
    """
    try:
        if not is_recognizer(str(folder)):
            encoder, personal = load_encoder(str(folder)), load_speakers(str(folder)) is not None
        else:
            trained = load_trained(folder)
            encoder = trained.model.encoder
            personal = trained.speakers is not None or trained.model.extractor is not None
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"--encoder {folder}: cannot be loaded: {error}") from error

    if encoder.modality != "audio":
        raise ConfigError(
            f"--encoder {folder}: takes {encoder.modality}; expected an encoder of sound"
        )
    if personal:
        raise ConfigError(
            f"--encoder {folder}: hears each speaker in a way of its own, so a frame is no "
            "function of the sound; give the encoder that it was made from"
        )
    return encoder


def _too_short() -> Missing:
    return Missing(f"audio_too_short: under {MIN_SAMPLES} samples (0.1 s)")


def _usable(frames_TLD: NDArray[np.float16]) -> Frames:
    if not len(frames_TLD):
        return Missing("audio_too_short: the encoder makes no frame of it")
    if not np.isfinite(frames_TLD).all():
        return Missing("not_finite: a frame holds NaN, or a number that float16 cannot hold")
    return frames_TLD

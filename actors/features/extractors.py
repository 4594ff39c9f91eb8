"""Frozen encoders as extractors: they turn sound into the frames of some hidden states.

A long recording is heard in windows, whose frames are put one behind another. What an utterance
gives does not depend on the others of its batch. Frames are kept as float16, which halves them; a
frame with a number beyond its range is a reason, and never infinity. Where extra tokens are wanted,
those of a long recording are the mean of its windows'.

Shapes: N utterances, S samples, T frames, X extra tokens, L layers, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
NO_TOKENS = (
    "only encoders of `train emotion2vec`, and published ones of emotion2vec, have extra tokens"
)
GPU_SECONDS = 240.0  # of sound in a batch; a CPU is faster with one window at a time


@dataclass(frozen=True, slots=True)
class Extracted:
    """The frames [T, L, D] of an utterance, and its extra tokens [X, D] if they are wanted."""

    frames_TLD: NDArray[np.float16]
    tokens_XD: NDArray[np.float16] | None = None


Found: TypeAlias = Extracted | Missing


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

    @property
    def num_tokens(self) -> int:
        """The number X of extra tokens that are kept of each utterance, at 0 none."""

    def extract(self, waveforms: Sequence[Waveform]) -> list[Found]:
        """The features of each utterance, or the reason why it has none."""


def make_extractor(encoder: EmbedderConfig, layers: LayerChoice) -> Extractor:
    """The extractor of a configuration; nothing is loaded yet."""
    return SpectralExtractor(layers) if encoder.is_spectral else EncoderExtractor(encoder, layers)


class SpectralExtractor:
    """Mel cepstra 1 to 39, every 10 ms: the baseline that needs no weights."""

    num_tokens = 0

    def __init__(self, layers: LayerChoice) -> None:
        self._choice = layers

    def setup(self, num_threads: int) -> None:
        """Make the filters. Raises ConfigError for tokens, or layers: cepstra have only one."""
        if self._choice.tokens:
            raise ConfigError(f"--tokens: spectral features have none; {NO_TOKENS}")
        prepare_torch(num_threads)
        self.layers = self._choice.numbers(1)
        self.width = NUM_CEPSTRA - 1
        self._cepstra = Cepstra(NUM_CEPSTRA)

    def extract(self, waveforms: Sequence[Waveform]) -> list[Found]:
        """The frames [T, 1, 39] of each utterance, or the reason why it has none."""
        return [self._extract(waveform) for waveform in waveforms]

    def _extract(self, waveform: Waveform) -> Found:
        if len(waveform) < MIN_SAMPLES:
            return _too_short()

        cepstra_TD = self._cepstra(torch.from_numpy(waveform)[None])[0][:, 1:]
        return _usable(cepstra_TD[:, None].astype(np.float16), None)


class EncoderExtractor:
    """A pretrained encoder, or that of a recognizer that is not personalized."""

    def __init__(self, encoder: EmbedderConfig, layers: LayerChoice) -> None:
        self._config, self._choice = encoder, layers

    def setup(self, num_threads: int) -> None:
        """Load the weights onto this process's GPU, or the CPU.

        Raises ConfigError when the folder holds no encoder of sound, a personalized one, or fewer
        layers than were asked for, or no extra tokens although they were.
        """
        prepare_torch(num_threads)
        self._device = default_device()

        self._encoder = _load(folder_of(self._config)).eval().to(self._device)
        self.layers = self._choice.numbers(len(self._encoder.layers) + 1)
        self.width = self._encoder.width
        self.num_tokens = self._encoder.num_tokens if self._choice.tokens else 0
        if self._choice.tokens and not self.num_tokens:
            raise ConfigError(f"--tokens: {self._config.encoder} has none; {NO_TOKENS}")

    def extract(self, waveforms: Sequence[Waveform]) -> list[Found]:
        """The features of each utterance, or the reason why it has none."""
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
            self._joined([found[place] for place in span]) if span else _too_short()
            for span in spans
        ]

    def _joined(self, windows: Sequence[NDArray[np.float16]]) -> Found:
        """The features of a recording from those of its windows [X + T, L, D]."""
        front = self.num_tokens
        frames_TLD = np.concatenate([window[front:] for window in windows])
        if not front:
            return _usable(frames_TLD, None)

        # Windows are equally long, so each weighs the same.
        tokens_WXD = np.stack([window[:front, 0] for window in windows])
        return _usable(frames_TLD, tokens_WXD.mean(axis=0, dtype=np.float32).astype(np.float16))

    def _of_windows(self, windows: Sequence[Waveform]) -> list[NDArray[np.float16]]:
        budget = round(GPU_SECONDS * SAMPLE_RATE_HZ) if self._device.type == "cuda" else 0
        batches = plan_batches([len(window) for window in windows], budget=budget)
        rows = run_batches(
            batches, lambda batch: self._forward([windows[place] for place in batch])
        )

        lengths_N = torch.tensor([len(window) for window in windows], dtype=torch.long)
        counts = self._encoder.num_frames(lengths_N).tolist() if windows else []
        front = self.num_tokens
        return [rows[place][: front + count].numpy() for place, count in enumerate(counts)]

    @torch.inference_mode()
    def _forward(self, waveforms: Sequence[Waveform]) -> Tensor:
        """The frames [N, T, L, D] of a batch, padding included, behind the tokens if wanted."""
        padded, lengths = pad(waveforms)
        samples_NS, lengths_N = (
            torch.from_numpy(array).to(self._device) for array in (padded, lengths)
        )
        with self._encoder.kept_tokens() as kept:
            states, _ = self._encoder.hidden_states(samples_NS, lengths_N)

        chosen_NTLD = torch.stack([states[number] for number in self.layers], dim=2)
        if self.num_tokens:
            # One tensor for both, repeated over the layers, since a batch gives one.
            tokens_NXLD = kept[0].unsqueeze(2).expand(-1, -1, len(self.layers), -1)
            chosen_NTLD = torch.cat([tokens_NXLD, chosen_NTLD], dim=1)
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


def _usable(frames_TLD: NDArray[np.float16], tokens_XD: NDArray[np.float16] | None) -> Found:
    if not len(frames_TLD):
        return Missing("audio_too_short: the encoder makes no frame of it")
    if not np.isfinite(frames_TLD).all():
        return Missing("not_finite: a frame holds NaN, or a number that float16 cannot hold")
    if tokens_XD is not None and not np.isfinite(tokens_XD).all():
        return Missing("not_finite: a token holds NaN, or a number that float16 cannot hold")
    return Extracted(frames_TLD, tokens_XD)

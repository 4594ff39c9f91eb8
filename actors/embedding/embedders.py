"""Encoders as embedders: they turn the utterances of some speakers into one vector each.

A vector is the mean over time of the encoder's last layer (papt-pldc, Eq. 2). A long recording is
cut into windows, whose means are weighted by their length. A personalized encoder hears a speaker's
utterances together: SetPeER in sets of eight, in their order; PAPT with the speaker's own
embedding, or with that of the training speaker who sounds most like the utterances at hand.

`SpectralEmbedder` needs no weights. It takes means and spreads over time of mel cepstra, and weighs
them by their index, since the higher ones tell voices apart but are small. RAVDESS and LibriSpeech
showed this; see docs/decisions.md.

Shapes: N utterances, T frames, F coefficients, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.embedding.config import EmbedderConfig, folder_of
from actors.inference.outcomes import Missing, Outcome
from actors.inference.runtime import prepare_torch
from actors.inference.windows import MIN_SAMPLES, windowed_rows
from shards.config import ConfigError
from shards.media.padding import pad
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from shards.speakers.table import nearest
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.parts.cepstra import Cepstra
from trainers.models.parts.device import default_device
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.adapted_encoder import SpeakerState, load_speakers
from trainers.models.recognizer import EmotionRecognizer, is_recognizer
from trainers.models.trained import load_trained

NUM_CEPSTRA, LIFTER = 40, 0.75
WINDOW_SECONDS = 60.0
GPU_SECONDS = 480.0  # of sound in a batch; a CPU is faster with one window at a time
SET_SIZE = 8


class Embedder(Protocol):
    """What makes vectors of utterances, after `setup` has loaded it."""

    def setup(self, num_threads: int) -> None:
        """Load the encoder. Raises ConfigError when it cannot be used."""

    def embed(self, waveforms: Sequence[Waveform], speakers: Sequence[str]) -> list[Outcome]:
        """A vector [D] for each utterance, or the reason why it has none."""


def make_embedder(config: EmbedderConfig) -> Embedder:
    """The embedder of a configuration; nothing is loaded yet."""
    return SpectralEmbedder() if config.is_spectral else EncoderEmbedder(config)


class SpectralEmbedder:
    """Mel cepstra 1 to 39 over time: their means, and their spreads about the mean spread [78]."""

    def setup(self, num_threads: int) -> None:
        """Make the filters."""
        prepare_torch(num_threads)
        self._cepstra = Cepstra(NUM_CEPSTRA)
        self._weights = np.arange(1, NUM_CEPSTRA) ** LIFTER

    def embed(self, waveforms: Sequence[Waveform], speakers: Sequence[str]) -> list[Outcome]:
        """A vector [78] for each utterance; the speakers make no difference."""
        return [self._embed_one(waveform) for waveform in waveforms]

    def _embed_one(self, waveform: Waveform) -> Outcome:
        if len(waveform) < MIN_SAMPLES:
            return _too_short()

        cepstra_TF = (
            self._cepstra(torch.from_numpy(waveform)[None])[0][:, 1:].astype(np.float64)
            * self._weights
        )

        spread = cepstra_TF.std(axis=0)
        return _usable(np.concatenate([cepstra_TF.mean(axis=0), spread - spread.mean()]))


class EncoderEmbedder:
    """A pretrained or trained encoder, personalized or not."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config

    def setup(self, num_threads: int) -> None:
        """Load the weights onto this process's GPU, or the CPU."""
        prepare_torch(num_threads)
        self._device = default_device()

        folder = folder_of(self._config)
        self._model: _Pooled = _load(folder, self._device)

    def embed(self, waveforms: Sequence[Waveform], speakers: Sequence[str]) -> list[Outcome]:
        """A vector [D] for each utterance.

        A personalized encoder hears the utterances of one speaker together.
        """
        found: list[Outcome] = [_too_short()] * len(waveforms)
        long_enough = [
            place for place, waveform in enumerate(waveforms) if len(waveform) >= MIN_SAMPLES
        ]

        for group in self._model.groups(long_enough, speakers):
            rows = self._model.pooled([waveforms[place] for place in group], speakers[group[0]])
            for place, row in zip(group, rows, strict=True):
                found[place] = row if isinstance(row, Missing) else _usable(row)

        return found


class _Pooled:
    """A plain encoder, which hears every utterance by itself."""

    def __init__(self, encoder: LayerwiseEncoder, device: torch.device) -> None:
        self._encoder, self._device = encoder.eval().to(device), device
        most = round(WINDOW_SECONDS * SAMPLE_RATE_HZ)
        self._max_samples = min(most, encoder.max_samples or most)

    def groups(self, places: list[int], speakers: Sequence[str]) -> list[list[int]]:
        """The groups that are heard together: all at once, as no utterance affects another."""
        return [places] if places else []

    def pooled(
        self, waveforms: Sequence[Waveform], speaker: str
    ) -> list[NDArray[np.float64] | Missing]:
        """Each utterance's mean over time [D]."""
        return windowed_rows(
            waveforms,
            self._forward,
            max_samples=self._max_samples,
            budget=round(GPU_SECONDS * SAMPLE_RATE_HZ) if self._device.type == "cuda" else 0,
            equal_lengths=False,
        )

    @torch.inference_mode()
    def _forward(self, waveforms: Sequence[Waveform]) -> Tensor:
        return self._pool(*_padded(waveforms, self._device)).float()

    def _pool(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        return masked_mean(*self._encoder(samples_NS, lengths_N))


class _PooledTogether(_Pooled):
    """SetPeER and its like: sets of one speaker's utterances, each personalized by all of them."""

    def __init__(self, recognizer: EmotionRecognizer, device: torch.device) -> None:
        super().__init__(recognizer.encoder, device)
        self._recognizer = recognizer.eval().to(device)

    def groups(self, places: list[int], speakers: Sequence[str]) -> list[list[int]]:
        """A speaker's utterances in their order, eight at a time."""
        by_speaker: dict[str, list[int]] = {}
        for place in places:
            by_speaker.setdefault(speakers[place], []).append(place)

        return [
            mine[start : start + SET_SIZE]
            for mine in by_speaker.values()
            for start in range(0, len(mine), SET_SIZE)
        ]

    def pooled(
        self, waveforms: Sequence[Waveform], speaker: str
    ) -> list[NDArray[np.float64] | Missing]:
        """The set in one pass; an utterance longer than a window is cut there."""
        rows = self._forward([waveform[: self._max_samples] for waveform in waveforms])
        return list(rows.double().cpu().numpy())

    def _pool(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        found: Tensor = self._recognizer(
            samples_NS, lengths_N, torch.zeros_like(lengths_N)
        ).pooled_ND
        return found


class _PooledKnown(_Pooled):
    """PAPT: each utterance is heard with a speaker's embedding.

    It is the speaker's own, or that of the training speaker who sounds most alike.
    """

    def __init__(
        self, encoder: LayerwiseEncoder, state: SpeakerState, device: torch.device
    ) -> None:
        super().__init__(encoder, device)

        self._embedding = state.embedding.eval().to(device)
        self._number_of: Mapping[str, int] = {
            name: number for number, name in enumerate(state.names)
        }
        self._original = _Pooled(state.original, device)
        self._number = 0

    def groups(self, places: list[int], speakers: Sequence[str]) -> list[list[int]]:
        """A group for each speaker, of all utterances at hand."""
        return _by_speaker(places, speakers)

    def pooled(
        self, waveforms: Sequence[Waveform], speaker: str
    ) -> list[NDArray[np.float64] | Missing]:
        """Each utterance's mean over time [D], heard with one embedding.

        A speaker who is not among the training speakers borrows the embedding that is nearest to
        what the original encoder makes of the utterances.
        """
        number = self._number_of.get(speaker)
        self._number = self._proxy(waveforms) if number is None else number

        return super().pooled(waveforms, speaker)

    def _proxy(self, waveforms: Sequence[Waveform]) -> int:
        rows = [row for row in self._original.pooled(waveforms, "") if not isinstance(row, Missing)]
        vector = np.mean(rows, axis=0).astype(np.float32)

        ((place,),), _ = nearest(self._embedding.vectors.cpu().numpy(), vector[None], 1)
        return int(place)

    def _pool(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        numbers_N = torch.full_like(lengths_N, self._number)
        frames_NTD, mask_NT = self._encoder(
            samples_NS, lengths_N, self._embedding.before_layer(numbers_N)
        )
        return masked_mean(*self._embedding.after_layers(frames_NTD, mask_NT, numbers_N))


def _load(folder: Path, device: torch.device) -> _Pooled:
    """The folder's encoder, wrapped by the way in which it hears utterances.

    Raises ConfigError when it is no encoder of sound, or when its files are damaged.
    """
    if not is_recognizer(str(folder)):
        encoder, state = load_encoder(str(folder)), load_speakers(str(folder))
        if encoder.modality != "audio":
            raise ConfigError(
                f"--encoder {folder}: takes {encoder.modality}; expected an encoder of sound"
            )
        return _Pooled(encoder, device) if state is None else _PooledKnown(encoder, state, device)

    try:
        trained = load_trained(folder)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"--encoder {folder}: cannot be loaded: {error}") from error

    recognizer, state = trained.model, trained.speakers
    if recognizer.config.modality != "audio":
        raise ConfigError(
            f"--encoder {folder}: takes {recognizer.config.modality}; expected an encoder of sound"
        )

    if recognizer.hears_sets:
        return _PooledTogether(recognizer, device)

    return (
        _Pooled(recognizer.encoder, device)
        if state is None
        else _PooledKnown(recognizer.encoder, state, device)
    )


def _by_speaker(places: list[int], speakers: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for place in places:
        groups.setdefault(speakers[place], []).append(place)
    return list(groups.values())


def _padded(waveforms: Sequence[Waveform], device: torch.device) -> tuple[Tensor, Tensor]:
    """Samples [N, S] and lengths [N]."""
    padded, lengths = pad(waveforms)
    return torch.from_numpy(padded).to(device), torch.from_numpy(lengths).to(device)


def _too_short() -> Missing:
    return Missing(f"audio_too_short: under {MIN_SAMPLES} samples (0.1 s)")


def _usable(vector: NDArray[Any]) -> Outcome:
    """The vector as float32, or Missing when it has no direction."""
    if not np.isfinite(vector).all() or not vector.any():
        return Missing("no_direction: the encoder answered with zeros, NaN or infinity")
    return vector.astype(np.float32)

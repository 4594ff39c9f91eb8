"""A trained recognizer of sound, and what it must know about the speaker before it can answer.

There are three ways to hear. A plain recognizer hears every piece of sound by itself. SetPeER and
`speaker-normalized` hear pieces of one speaker together. PAPT hears a piece with a speaker's
embedding: the speaker's own, or that of the training speaker whose vector is nearest (the proxy).

Shapes: N pieces, W classes or values, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.inference.batching import plan_batches
from actors.inference.loading import ready_for_inference
from actors.inference.outcomes import run_batches
from actors.inference.runtime import prepare_torch
from shards.config import ConfigError
from shards.media.padding import pad
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from shards.speakers.table import nearest
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.device import default_device
from trainers.models.parts.pooling import masked_mean
from trainers.models.trained import TrainedRecognizer, require_recognizer

Personalization = Literal["none", "sets", "embeddings"]
GPU_SECONDS = 480.0  # of sound in a batch; a CPU is faster with one piece at a time
# Of sound, from which a GPU gets batches of similar length. On a CPU it only spaces the progress.
GPU_POOL_SECONDS, CPU_POOL_SECONDS = 1920.0, 30.0


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a recognizer answers to N pieces of sound.

    `scores` [N, W] are probabilities or values, and `features` [N, D] are pooled over frames.
    """

    scores: NDArray[np.float32]
    features: NDArray[np.float32]


class SpeechRecognizer:
    """The recognizer that `emostream train` exported to a folder.

    Raises ConfigError when the folder holds none, or one of another modality than sound.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._trained = _load(folder)
        config = self._trained.model.config
        self.names: tuple[str, ...] = tuple(config.names)
        self.is_values = bool(config.is_values)

    def setup(self, num_threads: int) -> None:
        """Bring the weights onto this process's GPU, or leave them on the CPU."""
        prepare_torch(num_threads)
        self._device = default_device()
        ready_for_inference(self._trained.model, self._device)
        if self._trained.speakers is not None:
            ready_for_inference(self._trained.speakers.original, self._device)

    @property
    def personalization(self) -> Personalization:
        """What the recognizer must know about a speaker."""
        if self._trained.speakers is not None:
            return "embeddings"
        return "sets" if self._trained.model.hears_sets else "none"

    @property
    def pool_seconds(self) -> float:
        """About how many seconds of sound to hand over at once."""
        return GPU_POOL_SECONDS if self._device.type == "cuda" else CPU_POOL_SECONDS

    def known_speaker(self, speaker: str) -> int | None:
        """The number of a training speaker's embedding; None for an unknown speaker."""
        state = self._trained.speakers
        names = [] if state is None else state.names
        return names.index(speaker) if speaker in names else None

    def proxy(self, waveforms: Iterable[Waveform]) -> int | None:
        """The number of the training speaker's embedding that is nearest to what `waveforms` give.

        They are compared by the mean over utterances of what the original encoder makes of them
        (papt-pldc, Eq. 2). None without waveforms.
        """
        state = self._trained.speakers
        if state is None:
            raise ValueError("proxy: got a recognizer without speaker embeddings")

        vectors = [self._pooled(state.original, waveform) for waveform in waveforms]
        if not vectors:
            return None
        query = np.stack(vectors).mean(axis=0, dtype=np.float64).astype(np.float32)
        ((place,),), _ = nearest(state.embedding.vectors.cpu().numpy(), query[None], 1)
        return int(place)

    def recognize(self, waveforms: Sequence[Waveform], embedding: int | None = None) -> Recognized:
        """The answers to pieces of sound, in their order.

        A recognizer with sets takes all pieces for one set. One with embeddings hears all of them
        with the embedding of that number.
        """
        if self.personalization == "sets":
            rows = list(self._forward(waveforms, embedding).cpu())
        else:
            on_gpu = self._device.type == "cuda"
            budget = round(GPU_SECONDS * SAMPLE_RATE_HZ) if on_gpu else 0
            batches = plan_batches([len(waveform) for waveform in waveforms], budget=budget)
            found = run_batches(
                batches,
                lambda batch: self._forward([waveforms[place] for place in batch], embedding),
            )
            rows = [found[place] for place in range(len(waveforms))]

        table = np.stack([row.numpy() for row in rows])
        return Recognized(table[:, : len(self.names)], table[:, len(self.names) :])

    @torch.inference_mode()
    def _forward(self, waveforms: Sequence[Waveform], embedding: int | None) -> Tensor:
        """The scores and features of one batch, side by side [N, W + D]."""
        samples_NS, lengths_N = self._padded(waveforms)
        one_set_N = torch.zeros_like(lengths_N)
        speakers = None if embedding is None else torch.full_like(lengths_N, embedding)

        found = self._trained.model(samples_NS, lengths_N, one_set_N, None, speakers)
        answers_NW = found.scores_NC if self.is_values else found.scores_NC.softmax(dim=-1)
        return torch.cat([answers_NW.float(), found.pooled_ND.float()], dim=1)

    @torch.inference_mode()
    def _pooled(self, encoder: LayerwiseEncoder, waveform: Waveform) -> NDArray[np.float32]:
        pooled_ND = masked_mean(*encoder(*self._padded([waveform])))
        found: NDArray[np.float32] = pooled_ND[0].float().cpu().numpy()
        return found

    def _padded(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
        """Samples [N, S] and lengths [N], on the device."""
        padded, lengths = pad(waveforms)
        return (
            torch.from_numpy(padded).to(self._device),
            torch.from_numpy(lengths).to(self._device),
        )


def _load(folder: str) -> TrainedRecognizer:
    trained = require_recognizer(folder)

    modality = trained.model.config.modality
    if modality != "audio":
        raise ConfigError(
            f"--checkpoint {folder}: got a recognizer of {modality}, expected one of sound; "
            "`emostream evaluate` recognizes packed shards by every modality"
        )
    return trained

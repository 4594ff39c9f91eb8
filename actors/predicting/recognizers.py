"""A trained recognizer of any modality, and what it must know of the speaker before it can answer.

There are three ways to hear. A plain recognizer hears every piece by itself. SetPeER and
`speaker-normalized` hear pieces of one speaker together. PAPT hears a piece with a speaker's
embedding: the speaker's own, or that of the training speaker whose vector is nearest (the proxy).

Shapes: N pieces, W classes or values, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.inference.batching import plan_batches
from actors.inference.loading import ready_for_inference
from actors.inference.outcomes import run_batches
from actors.inference.runtime import prepare_torch
from shards.loading.decoding import make_decoder
from shards.loading.inputs import Modality
from shards.media.clip_format import ClipFormat
from shards.media.padding import pad
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.speakers.table import nearest
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.device import default_device
from trainers.models.parts.pooling import masked_mean
from trainers.models.trained import require_recognizer

Personalization = Literal["none", "sets", "embeddings"]
GPU_SECONDS = 480.0  # of sound in a batch; a CPU is faster with one piece at a time
# Of sound, from which a GPU gets batches of similar length. On a CPU it only spaces the progress.
GPU_POOL_SECONDS, CPU_POOL_SECONDS = 1920.0, 30.0
POOL_UTTERANCES = 32  # of video or faces


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a recognizer answers to N pieces.

    `scores` [N, W] are probabilities or values, and `features` [N, D] are pooled over frames.
    """

    scores: NDArray[np.float32]
    features: NDArray[np.float32]


class PieceRecognizer:
    """The recognizer that `emostream train` exported to a folder.

    A piece is a waveform [S] for sound, face features [F, D], or a clip [T, side, side, 3] of
    bytes. Raises ConfigError when the folder holds no recognizer.
    """

    def __init__(self, folder: str) -> None:
        self._trained = require_recognizer(folder)
        config = self._trained.model.config
        self._decoder = make_decoder(self._trained.model.input_name, self.clip_format)
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
    def modality(self) -> Modality:
        """What the recognizer was trained on."""
        modality: Modality = self._trained.model.config.modality
        return modality

    @property
    def clip_format(self) -> ClipFormat | None:
        """The clips that a recognizer of video sees."""
        return self._trained.model.clip_format

    @property
    def max_samples(self) -> int | None:
        """The longest piece of sound that the encoder can hear; None where there is no limit."""
        return self._trained.model.encoder.max_samples

    @property
    def feature_size(self) -> int | None:
        """How many numbers a frame of face features must have; None for other recognizers."""
        size = self._trained.model.config.encoder.get("feature_size")
        return int(size) if self.modality == "face" and size is not None else None

    def is_enough(self, pieces: Sequence[NDArray[Any]]) -> bool:
        """Whether the pieces are about as many as to hand over at once."""
        if self.modality != "audio":
            return len(pieces) >= POOL_UTTERANCES

        seconds = sum(len(piece) for piece in pieces) / SAMPLE_RATE_HZ
        return seconds >= (GPU_POOL_SECONDS if self._device.type == "cuda" else CPU_POOL_SECONDS)

    def known_speaker(self, speaker: str) -> int | None:
        """The number of a training speaker's embedding; None for an unknown speaker."""
        state = self._trained.speakers
        names = [] if state is None else state.names
        return names.index(speaker) if speaker in names else None

    def proxy(self, pieces: Iterable[NDArray[Any]]) -> int | None:
        """The number of the training speaker's embedding that is nearest to what `pieces` give.

        They are compared by the mean over utterances of what the original encoder makes of them
        (papt-pldc, Eq. 2). None without pieces.
        """
        state = self._trained.speakers
        if state is None:
            raise ValueError("proxy: got a recognizer without speaker embeddings")

        vectors = [self._pooled(state.original, piece) for piece in pieces]
        if not vectors:
            return None
        query = np.stack(vectors).mean(axis=0, dtype=np.float64).astype(np.float32)
        ((place,),), _ = nearest(state.embedding.vectors.cpu().numpy(), query[None], 1)
        return int(place)

    def recognize(self, pieces: Sequence[NDArray[Any]], embedding: int | None = None) -> Recognized:
        """The answers to pieces, in their order.

        A recognizer with sets takes all pieces for one set. One with embeddings hears all of them
        with the embedding of that number.
        """
        if self.personalization == "sets":
            rows = list(self._forward(pieces, embedding).cpu())
        else:
            batches = plan_batches([len(piece) for piece in pieces], budget=self._budget(pieces))
            found = run_batches(
                batches,
                lambda batch: self._forward([pieces[place] for place in batch], embedding),
            )
            rows = [found[place] for place in range(len(pieces))]

        table = np.stack([row.numpy() for row in rows])
        return Recognized(table[:, : len(self.names)], table[:, len(self.names) :])

    def _budget(self, pieces: Sequence[NDArray[Any]]) -> int:
        """How many samples, frames or pictures make a batch, padding included."""
        if self._device.type != "cuda":
            return 0
        if self.modality == "audio":
            return round(GPU_SECONDS * SAMPLE_RATE_HZ)
        return POOL_UTTERANCES * max(len(piece) for piece in pieces)

    @torch.inference_mode()
    def _forward(self, pieces: Sequence[NDArray[Any]], embedding: int | None) -> Tensor:
        """The scores and features of one batch, side by side [N, W + D]."""
        inputs, lengths_N = self._padded(pieces)
        one_set_N = torch.zeros_like(lengths_N)
        speakers = None if embedding is None else torch.full_like(lengths_N, embedding)

        found = self._trained.model(inputs, lengths_N, one_set_N, None, speakers)
        answers_NW = found.scores_NC if self.is_values else found.scores_NC.softmax(dim=-1)
        return torch.cat([answers_NW.float(), found.pooled_ND.float()], dim=1)

    @torch.inference_mode()
    def _pooled(self, encoder: LayerwiseEncoder, piece: NDArray[Any]) -> NDArray[np.float32]:
        pooled_ND = masked_mean(*encoder(*self._padded([piece])))
        found: NDArray[np.float32] = pooled_ND[0].float().cpu().numpy()
        return found

    def _padded(self, pieces: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
        """What the model takes [N, S], [N, F, D] or [N, T, 3, side, side], and lengths [N]."""
        padded, lengths = pad([self._decoder.ready(piece) for piece in pieces])
        return (
            torch.from_numpy(padded).to(self._device),
            torch.from_numpy(lengths).to(self._device),
        )

"""Has recordings recognized: cuts them into pieces, and pieces that go together into pools.

A recording is one piece; with windows, which cut sound only, one piece for each window. A pool is
recognized in one go: of a recognizer with sets, it is a set; otherwise, as many pieces as make a
good batch. Only the recordings and their order decide where a pool ends, so that the same
recordings get the same answers wherever they are recognized.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.inference.outcomes import Missing
from actors.predicting.config import PredictConfig
from actors.predicting.recognizers import PieceRecognizer
from actors.predicting.recordings import Recording
from shards.errors import reason_code
from shards.media.audio import MIN_SECONDS
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.tables.recordings import Prediction


@dataclass(frozen=True, slots=True)
class Heard:
    """The recording at `place` and what the recognizer takes of it, or why there is nothing.

    `kept` is a waveform [S], a clip [T, side, side, 3] or face features [F, D]; `seconds` is how
    long a video lasts, None where nobody knows.
    """

    place: int
    recording: Recording
    kept: NDArray[Any] | Missing
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a recording."""

    heard: Heard
    kept: NDArray[Any]
    start_seconds: float
    end_seconds: float | None


class Answers:
    """The predictions of recordings, as they come; every recording gets at least one."""

    def __init__(self, num_recordings: int) -> None:
        self._found: list[list[Prediction]] = [[] for _ in range(num_recordings)]
        self.num_done = 0  # recordings with at least one prediction

    def add(self, place: int, prediction: Prediction) -> None:
        """Take a prediction of the recording at `place`."""
        self.num_done += not self._found[place]
        self._found[place].append(prediction)

    def in_order(self) -> list[Prediction]:
        """All predictions, in the order of the recordings and of time."""
        return [
            prediction
            for found in self._found
            for prediction in sorted(found, key=lambda one: one.start_seconds or 0.0)
        ]


class Answerer:
    """Gives the predictions of recordings that may be recognized together."""

    def __init__(self, recognizer: PieceRecognizer, config: PredictConfig) -> None:
        self._recognizer, self._config = recognizer, config

    def answers(
        self, heard: Iterable[Heard], embedding: int | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Places and predictions; those of a recording come in the order of time.

        All recordings are heard with the embedding of that number.
        """
        pool: list[_Piece] = []
        for one in heard:
            pieces = self._pieces(one)
            if isinstance(pieces, Missing):
                yield one.place, without_answer(one.recording, pieces.reason)
                continue

            for piece in pieces:
                pool.append(piece)
                if self._is_full(pool):
                    yield from self._recognize(pool, embedding)
                    pool = []

        if pool:
            yield from self._recognize(pool, embedding)

    def pieces(self, heard: Iterable[Heard]) -> Iterator[NDArray[Any]]:
        """What the recognizer would take of all pieces."""
        for one in heard:
            pieces = self._pieces(one)
            if not isinstance(pieces, Missing):
                yield from (piece.kept for piece in pieces)

    def _pieces(self, heard: Heard) -> Iterable[_Piece] | Missing:
        """The pieces of a recording, or why the recognizer cannot take them."""
        kept, size = heard.kept, self._recognizer.feature_size
        if isinstance(kept, Missing):
            return kept
        if size is not None and kept.shape[1:] != (size,):
            return Missing(
                f"other_face_features: the frames have {kept.shape[-1]} numbers, expected the "
                f"{size} that the recognizer was trained on"
            )
        if self._recognizer.modality != "audio":
            start = heard.recording.start_seconds
            end = None if heard.seconds is None else start + heard.seconds
            return [_Piece(heard, kept, start, end)]

        longest = self._recognizer.max_samples
        window = self._config.window
        if longest is not None and min(len(kept), _window_samples(window) or len(kept)) > longest:
            return Missing(_too_long(len(kept), longest))
        return self._windows(heard, kept)

    def _windows(self, heard: Heard, sound: NDArray[Any]) -> Iterator[_Piece]:
        for part in windows_of(len(sound), self._config.window, self._config.hop):
            # A copy, so that one window does not keep hours of sound in memory.
            waveform = sound if self._config.window is None else sound[part].copy()
            start = heard.recording.start_seconds + part.start / SAMPLE_RATE_HZ
            yield _Piece(heard, waveform, start, start + len(waveform) / SAMPLE_RATE_HZ)

    def _is_full(self, pool: Sequence[_Piece]) -> bool:
        if self._recognizer.personalization == "sets":
            return len(pool) == self._config.set_size
        return self._recognizer.is_enough([piece.kept for piece in pool])

    def _recognize(
        self, pool: Sequence[_Piece], embedding: int | None
    ) -> Iterator[tuple[int, Prediction]]:
        answers = self._recognizer.recognize([piece.kept for piece in pool], embedding)

        for piece, scores, features in zip(pool, answers.scores, answers.features, strict=True):
            is_finite = bool(np.isfinite(scores).all())
            recording = piece.heard.recording
            end = piece.end_seconds

            prediction = Prediction(
                key=recording.key,
                speaker=recording.speaker,
                start_seconds=round(piece.start_seconds, 4),
                end_seconds=None if end is None else round(end, 4),
                scores=scores if is_finite else None,
                features=features if is_finite else None,
                error=None if is_finite else "non_finite_prediction: NaN or infinity",
            )
            yield piece.heard.place, prediction


def without_answer(recording: Recording, error: str) -> Prediction:
    """The row of a recording that cannot be used."""
    return Prediction(
        key=recording.key,
        speaker=recording.speaker,
        start_seconds=None,
        end_seconds=None,
        scores=None,
        features=None,
        error=error,
    )


def reason_of(error: str, config: PredictConfig) -> str:
    """Why a recording cannot be used, with the remedy where an option is one."""
    if reason_code(error) == "audio_too_long" and config.window is None:
        return f"{error}; give --window"
    return error


def _window_samples(window: float | None) -> int | None:
    return None if window is None else max(1, round(window * SAMPLE_RATE_HZ))


def _too_long(num_samples: int, longest: int) -> str:
    seconds, most = num_samples / SAMPLE_RATE_HZ, longest / SAMPLE_RATE_HZ
    return (
        f"audio_too_long: {seconds:.1f} s of sound, and the encoder hears {most:g} s at most; give "
        f"--window {most:g} or less"
    )


def windows_of(num_samples: int, window: float | None, hop: float | None) -> list[slice]:
    """The windows of a recording: every `hop` seconds one of `window` seconds.

    The last window ends with the recording, and so may be shorter. There is no window whose sound
    the one before it has already, and none too short to be heard, but every sample is in one unless
    the rest is too short. Without `window`, one slice covers the recording.
    """
    if window is None:
        return [slice(0, num_samples)]

    size = _window_samples(window) or num_samples
    step = max(1, round((hop or window) * SAMPLE_RATE_HZ))
    shortest = round(MIN_SECONDS * SAMPLE_RATE_HZ)

    found = [slice(0, min(size, num_samples))]
    while found[-1].stop < num_samples:
        start = found[-1].start + step
        if num_samples - start < shortest:
            break
        found.append(slice(start, min(start + size, num_samples)))
    return found

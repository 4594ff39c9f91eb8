"""Recognizes recordings one after another, with bounded memory: a few are decoded ahead.

A recording is one piece of sound, or one piece for each window. The pieces of a group are
recognized together: of a personalized recognizer, a set of pieces of one speaker; otherwise, as
many pieces as make a good batch. Sets are drawn as `emostream evaluate` draws them, so that both
answer the same to the same utterances.

Shapes: W classes or values, D width.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.predicting.config import PredictConfig
from actors.predicting.recognizers import SpeechRecognizer
from actors.predicting.recordings import Recording
from shards.errors import BadSample
from shards.grouping import group_rows
from shards.loading.batch_plan import evaluation_batches
from shards.media.audio import MIN_SECONDS, decode_audio
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from shards.progress import OnProgress

MAX_SECONDS = 600.0  # of a recording that is recognized as a whole
MAX_WINDOWED_SECONDS = 4 * 3600.0  # 0.9 GB as float32
NUM_DECODERS, NUM_AHEAD = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer to one recording or window: `scores` [W] and `features` [D], or an `error`.

    Seconds count from the beginning of the file.
    """

    key: str
    speaker: str | None
    start_seconds: float | None
    end_seconds: float | None
    scores: NDArray[np.float32] | None
    features: NDArray[np.float32] | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of sound of the recording at `place`, which begins at `start_seconds`."""

    place: int
    waveform: Waveform
    start_seconds: float


class Predictor:
    """Turns recordings into predictions; every recording gives at least one."""

    def __init__(
        self, recognizer: SpeechRecognizer, config: PredictConfig, recordings: Sequence[Recording]
    ) -> None:
        self._recognizer, self._config, self._recordings = recognizer, config, recordings
        self._found: list[list[Prediction]] = [[] for _ in recordings]
        self._num_done = 0  # recordings with at least one prediction

    def predict(self, on_progress: OnProgress) -> list[Prediction]:
        """The predictions, in the order of the recordings and of time."""
        groups = self._groups()

        for places in groups:
            embedding = self._embedding(places)
            for pool in self._pools(places):
                self._recognize(pool, embedding)
                on_progress(self._num_done, len(self._found))

        on_progress(len(self._found), len(self._found))
        return [
            prediction
            for found in self._found
            for prediction in sorted(found, key=lambda one: one.start_seconds or 0.0)
        ]

    def _groups(self) -> list[list[int]]:
        """The places of the recordings to recognize, in the order in which they are heard.

        There is one group for each speaker of a personalized recognizer, and else one group. The
        other recordings are unusable, and get their predictions here.
        """
        is_personal = self._recognizer.personalization != "none"
        usable = []
        for place, recording in enumerate(self._recordings):
            error = recording.error
            if error is None and is_personal and recording.speaker is None:
                error = "no_speaker: a personalized model must know who speaks"
            if error is None:
                usable.append(place)
            else:
                self._fail(place, error)

        return self._by_speaker(usable) if is_personal else [usable]

    def _by_speaker(self, usable: list[int]) -> list[list[int]]:
        """The places of each speaker, in an order whose every `set_size` places make a set."""
        speakers = np.asarray([self._recordings[place].speaker for place in usable], dtype=object)
        rows_by_speaker = group_rows(speakers)
        planned = evaluation_batches(rows_by_speaker, self._config.set_size, seed=self._config.seed)

        groups: dict[object, list[int]] = {speaker: [] for speaker in rows_by_speaker}
        for batch in planned:
            groups[speakers[batch.rows[0]]] += [usable[row] for row in batch.rows.tolist()]
        return list(groups.values())

    def _embedding(self, places: list[int]) -> int | None:
        """The number of the embedding with which a speaker's recordings are heard."""
        if self._recognizer.personalization != "embeddings":
            return None

        number = self._recognizer.known_speaker(str(self._recordings[places[0]].speaker))
        if number is not None:
            return number

        # The recordings are decoded twice, now for the speaker's vector: to keep them all would
        # take memory without a bound.
        return self._recognizer.proxy(
            piece.waveform
            for place, sound in self._decoded(places)
            if not isinstance(sound, BadSample)
            for piece in self._pieces(place, sound)
        )

    def _pools(self, places: list[int]) -> Iterator[list[_Piece]]:
        """The pieces of some recordings, in order, as many as are recognized together.

        A recording that cannot be decoded gets its prediction here.
        """
        pool: list[_Piece] = []
        for place, sound in self._decoded(places):
            if isinstance(sound, BadSample):
                self._fail(place, sound.reason)
                continue
            for piece in self._pieces(place, sound):
                pool.append(piece)
                if self._is_full(pool):
                    yield pool
                    pool = []

        if pool:
            yield pool

    def _is_full(self, pool: list[_Piece]) -> bool:
        if self._recognizer.personalization == "sets":
            return len(pool) == self._config.set_size
        seconds = sum(len(piece.waveform) for piece in pool) / SAMPLE_RATE_HZ
        return seconds >= self._recognizer.pool_seconds

    def _decoded(self, places: list[int]) -> Iterator[tuple[int, Waveform | BadSample]]:
        """The sound of each recording, or why it has none; the next ones are decoded meanwhile."""
        with ThreadPoolExecutor(NUM_DECODERS) as threads:
            ahead: deque[tuple[int, Future[Waveform | BadSample]]] = deque()
            for place in places:
                ahead.append((place, threads.submit(self._decode, self._recordings[place])))
                if len(ahead) > NUM_AHEAD:
                    first, waiting = ahead.popleft()
                    yield first, waiting.result()

            for place, waiting in ahead:
                yield place, waiting.result()

    def _decode(self, recording: Recording) -> Waveform | BadSample:
        limit = MAX_SECONDS if self._config.window is None else MAX_WINDOWED_SECONDS
        try:
            if recording.read is None:
                raise BadSample("no_audio", "the recording has no sound")
            return decode_audio(recording.read(), max_seconds=limit)
        except BadSample as bad:
            if bad.code != "audio_too_long" or self._config.window is not None:
                return bad
            return BadSample(bad.code, f"{bad.detail}; give --window")

    def _pieces(self, place: int, sound: Waveform) -> Iterator[_Piece]:
        start = self._recordings[place].start_seconds
        for part in windows_of(len(sound), self._config.window, self._config.hop):
            # A copy, so that one window does not keep hours of sound in memory.
            waveform = sound if self._config.window is None else sound[part].copy()
            yield _Piece(place, waveform, start + part.start / SAMPLE_RATE_HZ)

    def _recognize(self, pool: list[_Piece], embedding: int | None) -> None:
        answers = self._recognizer.recognize([piece.waveform for piece in pool], embedding)
        for piece, scores, features in zip(pool, answers.scores, answers.features, strict=True):
            is_finite = bool(np.isfinite(scores).all())
            recording = self._recordings[piece.place]
            end = piece.start_seconds + len(piece.waveform) / SAMPLE_RATE_HZ

            self._add(
                piece.place,
                Prediction(
                    key=recording.key,
                    speaker=recording.speaker,
                    start_seconds=round(piece.start_seconds, 4),
                    end_seconds=round(end, 4),
                    scores=scores if is_finite else None,
                    features=features if is_finite else None,
                    error=None if is_finite else "non_finite_prediction: NaN or infinity",
                ),
            )

    def _add(self, place: int, prediction: Prediction) -> None:
        self._num_done += not self._found[place]
        self._found[place].append(prediction)

    def _fail(self, place: int, error: str) -> None:
        recording = self._recordings[place]
        self._add(
            place,
            Prediction(
                key=recording.key,
                speaker=recording.speaker,
                start_seconds=None,
                end_seconds=None,
                scores=None,
                features=None,
                error=error,
            ),
        )


def windows_of(num_samples: int, window: float | None, hop: float | None) -> list[slice]:
    """The windows of a recording: every `hop` seconds one of `window` seconds.

    The last window ends with the recording, and so may be shorter. There is no window whose sound
    the one before it has already, and none too short to be heard, but every sample is in one unless
    the rest is too short. Without `window`, one slice covers the recording.
    """
    if window is None:
        return [slice(0, num_samples)]

    size = max(1, round(window * SAMPLE_RATE_HZ))
    step = max(1, round((hop or window) * SAMPLE_RATE_HZ))
    shortest = round(MIN_SECONDS * SAMPLE_RATE_HZ)

    found = [slice(0, min(size, num_samples))]
    while found[-1].stop < num_samples:
        start = found[-1].start + step
        if num_samples - start < shortest:
            break
        found.append(slice(start, min(start + size, num_samples)))
    return found

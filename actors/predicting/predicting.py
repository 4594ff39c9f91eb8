"""Recognizes recordings one after another, with bounded memory: a few are decoded ahead.

The recordings of a group are recognized together: of a personalized recognizer, those of one
speaker; otherwise, all. Sets are drawn as `emostream evaluate` draws them, so that both answer the
same to the same utterances.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.inference.outcomes import Missing
from actors.predicting.answering import Answerer, Answers, Heard, reason_of, without_answer
from actors.predicting.config import PredictConfig
from actors.predicting.recognizers import PieceRecognizer
from actors.predicting.recordings import Recording
from shards.errors import BadSample
from shards.grouping import group_rows
from shards.loading.batch_plan import evaluation_batches
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.media.clips import ClipReader
from shards.media.length import film_seconds
from shards.progress import OnProgress
from shards.tables.recordings import Prediction

NUM_DECODERS, NUM_AHEAD = 2, 4


class Decoded(Protocol):
    """Recordings, and what the recognizer takes of each, as often as it is asked for."""

    @property
    def recordings(self) -> Sequence[Recording]:
        """All of them; nothing is decoded of one with an `error`."""

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places` with what is decoded of them, in this order."""


class DecodedRecordings:
    """Recordings that are read and decoded when they are asked for, a few of them ahead.

    With a `clip` format they are seen, as clips; without one they are heard.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: PredictConfig,
        clip: ClipFormat | None = None,
    ) -> None:
        self.recordings = recordings
        self._config = config
        self._clips = None if clip is None else ClipReader(clip)

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places`; the next ones are decoded while one is recognized."""
        # A face detector keeps state between calls, so only one thread may ask it.
        num_decoders = NUM_DECODERS if self._clips is None else 1
        with ThreadPoolExecutor(num_decoders) as threads:
            ahead: deque[Future[Heard]] = deque()
            for place in places:
                ahead.append(threads.submit(self._decode, place))
                if len(ahead) > NUM_AHEAD:
                    yield ahead.popleft().result()

            while ahead:
                yield ahead.popleft().result()

    def _decode(self, place: int) -> Heard:
        recording = self.recordings[place]
        if recording.read is None:
            error = recording.error or "no_media: the recording has nothing to recognize"
            return Heard(place, recording, Missing(error))

        try:
            return Heard(place, recording, *self._kept(recording.read()))
        except BadSample as bad:
            return Heard(place, recording, Missing(reason_of(bad.reason, self._config)))

    def _kept(self, data: bytes) -> tuple[NDArray[Any], float | None]:
        """What the recognizer takes of a file, and how many seconds a film lasts."""
        if self._clips is None:
            return decode_audio(data, max_seconds=self._config.max_seconds), None
        return self._clips.read(data), film_seconds(data)


class Predictor:
    """Turns recordings into predictions; every recording gives at least one."""

    def __init__(
        self, recognizer: PieceRecognizer, config: PredictConfig, decoded: Decoded
    ) -> None:
        self._recognizer, self._config, self._decoded = recognizer, config, decoded
        self._answerer = Answerer(recognizer, config)
        self._answers = Answers(len(decoded.recordings))

    def predict(self, on_progress: OnProgress) -> list[Prediction]:
        """The predictions, in the order of the recordings and of time."""
        total = len(self._decoded.recordings)

        for places in self._groups():
            embedding = self._embedding(places)
            for place, answer in self._answerer.answers(self._decoded.heard(places), embedding):
                self._answers.add(place, answer)
                on_progress(self._answers.num_done, total)

        on_progress(total, total)
        return self._answers.in_order()

    def _groups(self) -> list[list[int]]:
        """The places of the recordings to recognize, in the order in which they are heard.

        There is one group for each speaker of a personalized recognizer, and else one group. The
        other recordings are unusable, and get their predictions here.
        """
        is_personal = self._recognizer.personalization != "none"
        usable = []

        for place, recording in enumerate(self._decoded.recordings):
            error = recording.error
            if error is None and is_personal and recording.speaker is None:
                error = "no_speaker: a personalized model must know who speaks"
            if error is None:
                usable.append(place)
            else:
                self._answers.add(place, without_answer(recording, error))

        return self._by_speaker(usable) if is_personal else [usable]

    def _by_speaker(self, usable: list[int]) -> list[list[int]]:
        """The places of each speaker, in an order whose every `set_size` places make a set."""
        recordings = self._decoded.recordings
        speakers = np.asarray([recordings[place].speaker for place in usable], dtype=object)
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

        speaker = str(self._decoded.recordings[places[0]].speaker)
        number = self._recognizer.known_speaker(speaker)
        if number is not None:
            return number

        # The recordings are asked for twice, now for the speaker's vector: to keep them all would
        # take memory without a bound.
        return self._recognizer.proxy(self._answerer.pieces(self._decoded.heard(places)))

"""Recognizes recordings one after another, with bounded memory: a few are decoded ahead.

The recordings of a group are recognized together: of a personalized recognizer, those of one
speaker; otherwise, all. Sets are drawn as `emostream evaluate` draws them, so that both answer the
same to the same utterances.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from actors.inference.outcomes import Missing
from actors.predicting.answering import Answerer, Answers, Heard, reason_of, without_answer
from actors.predicting.config import PredictConfig
from actors.predicting.recognizers import SpeechRecognizer
from actors.predicting.recordings import Recording
from shards.errors import BadSample
from shards.grouping import group_rows
from shards.loading.batch_plan import evaluation_batches
from shards.media.audio import decode_audio
from shards.media.sound_format import Waveform
from shards.progress import OnProgress
from shards.tables.recordings import Prediction

NUM_DECODERS, NUM_AHEAD = 2, 4


class Sounds(Protocol):
    """Recordings, and the sound of each as often as it is asked for."""

    @property
    def recordings(self) -> Sequence[Recording]:
        """All of them; one with an `error` has no sound."""

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places` with their sound, in this order."""


class DecodedRecordings:
    """Recordings that are read and decoded when they are asked for, a few of them ahead."""

    def __init__(self, recordings: Sequence[Recording], config: PredictConfig) -> None:
        self.recordings = recordings
        self._config = config

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places`; the next ones are decoded while one is recognized."""
        with ThreadPoolExecutor(NUM_DECODERS) as threads:
            ahead: deque[tuple[int, Future[Waveform | Missing]]] = deque()
            for place in places:
                ahead.append((place, threads.submit(self._decode, self.recordings[place])))
                if len(ahead) > NUM_AHEAD:
                    yield self._first(ahead)

            while ahead:
                yield self._first(ahead)

    def _first(self, ahead: "deque[tuple[int, Future[Waveform | Missing]]]") -> Heard:
        place, waiting = ahead.popleft()
        return Heard(place, self.recordings[place], waiting.result())

    def _decode(self, recording: Recording) -> Waveform | Missing:
        if recording.read is None:
            return Missing(recording.error or "no_audio: the recording has no sound")

        try:
            return decode_audio(recording.read(), max_seconds=self._config.max_seconds)
        except BadSample as bad:
            return Missing(reason_of(bad.reason, self._config))


class Predictor:
    """Turns recordings into predictions; every recording gives at least one."""

    def __init__(self, recognizer: SpeechRecognizer, config: PredictConfig, sounds: Sounds) -> None:
        self._recognizer, self._config, self._sounds = recognizer, config, sounds
        self._answerer = Answerer(recognizer, config)
        self._answers = Answers(len(sounds.recordings))

    def predict(self, on_progress: OnProgress) -> list[Prediction]:
        """The predictions, in the order of the recordings and of time."""
        total = len(self._sounds.recordings)

        for places in self._groups():
            embedding = self._embedding(places)
            for place, answer in self._answerer.answers(self._sounds.heard(places), embedding):
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

        for place, recording in enumerate(self._sounds.recordings):
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
        recordings = self._sounds.recordings
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

        speaker = str(self._sounds.recordings[places[0]].speaker)
        number = self._recognizer.known_speaker(speaker)
        if number is not None:
            return number

        # The recordings are asked for twice, now for the speaker's vector: to keep them all would
        # take memory without a bound.
        return self._recognizer.proxy(self._answerer.waveforms(self._sounds.heard(places)))

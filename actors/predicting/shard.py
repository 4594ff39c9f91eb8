"""One shard from utterances to a committed table of predictions: the unit of work, without Ray.

A shard is recognized by itself, so that its table is a function of the shard, the checkpoint and
the options, whoever else is at work. For a personalized recognizer this means that a speaker is
what one shard holds of them: sets are drawn, and proxies found, within a shard.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from actors.inference.outcomes import Missing
from actors.predicting.answering import Answerer, Answers, Heard, reason_of
from actors.predicting.config import PredictConfig
from actors.predicting.outcome import outcome_of
from actors.predicting.predicting import Predictor
from actors.predicting.recognizers import PieceRecognizer
from actors.predicting.recordings import Recording
from actors.predicting.spool import spooled_recordings
from actors.reading.utterance import Utterance
from actors.work.task import ShardOutcome, ShardProgress, ShardTask
from shards.errors import count_reasons
from shards.loading.inputs import Modality
from shards.tables.recordings import Prediction, RecordingsInfo, write_shard_table


def predict_shard(
    task: ShardTask,
    recognizer: PieceRecognizer,
    config: PredictConfig,
    utterances: Iterable[Utterance],
    num_utterances: int,
    *,
    shard_error: str | None,
    progress: ShardProgress,
) -> ShardOutcome:
    """Recognize the `num_utterances` utterances of a shard and commit the table of `task`."""
    sound = _Measured(utterances)
    if recognizer.personalization == "none":
        rows = _one_by_one(recognizer, config, sound, num_utterances, progress)
    else:
        rows = _by_speaker(recognizer, config, sound, progress)

    rejected = count_reasons(row.error for row in rows)
    info = RecordingsInfo(
        maker=task.maker,
        personalization=recognizer.personalization,
        shard=task.name,
        shard_url=task.url,
        shard_size=task.size,
        shard_version=task.version,
        shard_error=shard_error,
        num_rows=len(rows),
        num_utterances=num_utterances,
        seconds_of_audio=round(sound.seconds, 3),
        rejected=rejected,
    )

    write_shard_table(
        task.table_url,
        rows,
        recognizer.names,
        info,
        is_values=recognizer.is_values,
        with_features=config.pldc is not None,
    )
    return outcome_of(info)


class _Measured:
    """Passes utterances on, and adds up their seconds of sound."""

    def __init__(self, utterances: Iterable[Utterance]) -> None:
        self._utterances = utterances
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Utterance]:
        for utterance in self._utterances:
            self.seconds += utterance.duration_seconds or 0.0
            yield utterance


def _one_by_one(
    recognizer: PieceRecognizer,
    config: PredictConfig,
    utterances: Iterable[Utterance],
    num_utterances: int,
    progress: ShardProgress,
) -> list[Prediction]:
    """The rows of a recognizer that hears every piece by itself, as they stream by."""
    heard = (
        Heard(
            place,
            *_recording(utterance, config, recognizer.modality),
            seconds=utterance.duration_seconds,
        )
        for place, utterance in enumerate(utterances)
    )

    answers, before = Answers(num_utterances), progress.num_utterances
    for place, answer in Answerer(recognizer, config).answers(heard):
        answers.add(place, answer)
        progress.num_utterances = before + answers.num_done
    return answers.in_order()


def _by_speaker(
    recognizer: PieceRecognizer,
    config: PredictConfig,
    utterances: Iterable[Utterance],
    progress: ShardProgress,
) -> list[Prediction]:
    """The rows of a personalized recognizer, which are made when all of the shard is there."""
    before = progress.num_utterances

    def update(done: int, total: int, note: str = "") -> None:
        progress.num_utterances = before + done

    with spooled_recordings() as spooled:
        for utterance in utterances:
            recording, kept = _recording(utterance, config, recognizer.modality)
            spooled.add(
                recording,
                None if isinstance(kept, Missing) else kept,
                utterance.duration_seconds,
            )
        return Predictor(recognizer, config, spooled).predict(update)


def _recording(
    utterance: Utterance, config: PredictConfig, modality: Modality
) -> tuple[Recording, NDArray[Any] | Missing]:
    """An utterance as a recording, and what the recognizer takes of it or why there is nothing."""
    kept, without = _KEPT[modality](utterance)
    error = None if utterance.error is None else reason_of(utterance.error, config)
    if error is None and kept is None:
        error = utterance.remark or without

    recording = Recording(key=utterance.key, speaker=utterance.speaker, read=None, error=error)
    if error is not None or kept is None:
        return recording, Missing(str(error))
    return recording, kept


_KEPT: Mapping[Modality, Callable[[Utterance], tuple[NDArray[Any] | None, str]]] = {
    "audio": lambda one: (one.audio, "no_audio: the sample has no sound"),
    "video": lambda one: (one.clip, "no_video: the sample has no video"),
    "face": lambda one: (one.face_features, "no_face_features: the sample has no face.npy"),
}

"""Labeled utterances for the small teachers, read with the project's own shard reader.

A corpus for a demonstration teacher is small enough to fit in memory, so it is read once and kept.
Large training corpora are streamed from packed shards instead.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS, canonical_emotion
from shards.media.audio import decode_audio
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import list_files, open_ranged
from shards.tar.reader import index_shard, read_members

TeacherKind = Literal["audio", "face", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingUtterance:
    """One labeled utterance. Modalities that nobody asked for may be missing.

    `audio` [num_samples] is 16 kHz mono sound; `face_features` is [num_frames, dim].
    """

    speaker: str
    label: str
    audio: NDArray[np.float32] | None = None
    face_features: NDArray[np.float32] | None = None
    transcript: str | None = None


def read_training_utterances(pattern: str, kinds: Sequence[TeacherKind]) -> list[TrainingUtterance]:
    """The utterances in the shards of `pattern` that have a speaker, an emotion and all `kinds`.

    A label is the project's name for the emotion if the project has one, and otherwise the name
    that the corpus uses, in lower case. Raises BadSample for a sample that cannot be read: a
    teacher's corpus is expected to be clean.
    """
    return [
        utterance
        for sample in _iterate_samples(pattern)
        for utterance in _as_utterances(sample, kinds)
    ]


def classes_of(utterances: Iterable[TrainingUtterance]) -> tuple[str, ...]:
    """The labels that occur: the project's emotions in the project's order, then others by name."""
    labels = {utterance.label for utterance in utterances}

    return tuple(name for name in EMOTIONS if name in labels) + tuple(
        sorted(labels - set(EMOTIONS))
    )


def _iterate_samples(pattern: str) -> Iterator[Sample]:
    for file in list_files(pattern):
        with open_ranged(file.url) as reader:
            for entry in index_shard(reader).entries:
                yield parse_sample(entry.key, read_members(reader, entry))


def _as_utterances(sample: Sample, kinds: Sequence[TeacherKind]) -> Iterator[TrainingUtterance]:
    label = sample.metadata.get("emotion")
    payloads = {"audio": sample.audio, "face": sample.face_features, "text": sample.transcript}
    if (
        sample.speaker is None
        or not isinstance(label, str)
        or any(payloads[kind] is None for kind in kinds)
    ):
        return

    yield TrainingUtterance(
        speaker=sample.speaker,
        label=canonical_emotion(label) or label.strip().casefold(),
        audio=decode_audio(sample.audio) if "audio" in kinds and sample.audio is not None else None,
        face_features=sample.face_features,
        transcript=sample.transcript,
    )

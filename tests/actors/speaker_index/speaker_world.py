"""Small speaker tables and writes for the tests of the speaker index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.storage.writes import Upsert
from actors.speaker_index.wire import Layout, speakers_to_table
from protos import speaker_index_pb2 as messages
from shards.speakers.files import write_speakers
from shards.speakers.table import SpeakerTable

WIDTH = 8
DIMENSIONS = ("arousal", "valence")
FINGERPRINT = "test-encoder:1"
LAYOUT = Layout(WIDTH, DIMENSIONS, "test-encoder", FINGERPRINT)


def make_vectors(number: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((number, WIDTH)).astype(np.float32)


def make_table(number: int, seed: int = 0) -> SpeakerTable:
    """Speakers s000, s001, ...; the last has no labels, and every other is called female."""
    rng = np.random.default_rng([seed, 1])
    count = np.full((number, 2), 5)
    count[-1:] = 0
    known = np.where(count > 0, 1.0, np.nan)

    return SpeakerTable(
        speakers=[f"s{row:03d}" for row in range(number)],
        vectors=make_vectors(number, seed),
        num_utterances=np.arange(number) + 1,
        dimensions=DIMENSIONS,
        label_mean=rng.random((number, 2)).astype(np.float32) * known,
        label_std=rng.random((number, 2)).astype(np.float32) * known,
        label_count=count,
        metadata=[{"sex": "female" if row % 2 else "male"} for row in range(number)],
        encoder=LAYOUT.encoder,
        fingerprint=FINGERPRINT,
    )


def write_table(path: Path, number: int, seed: int = 0) -> str:
    write_speakers(str(path), make_table(number, seed))
    return str(path)


def make_message(name: str, vector: Sequence[float], **changes: object) -> messages.Speaker:
    """A speaker with one label statistic."""
    labels = [
        messages.LabelStatistics(dimension="arousal", mean=0.5, standard_deviation=0.25, count=4)
    ]
    values: dict[str, object] = {"num_utterances": 4, "labels": labels, "metadata": {"sex": "male"}}
    return messages.Speaker(id=name, vector=messages.Vector(values=vector), **(values | changes))  # type: ignore[arg-type]


def make_upsert(names: Sequence[str], seed: int = 7) -> Upsert:
    """A write of these speakers, with vectors drawn from `seed`."""
    vectors = make_vectors(len(names), seed)
    speakers = [
        make_message(name, vector.tolist()) for name, vector in zip(names, vectors, strict=True)
    ]
    request = messages.UpsertRequest(encoder_fingerprint=FINGERPRINT, speakers=speakers)
    return Upsert(speakers_to_table(request.speakers, LAYOUT), request)

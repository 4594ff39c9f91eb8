"""From tar to utterances: decoded once, in order, with reasons, and the same however it is cut into chunks."""

from pathlib import Path

import numpy as np
import pytest

from actors.panel_config import MediaConfig
from actors.reading import Needs, ShardOpened, ShardReader
from shards.audio import SAMPLE_RATE_HZ, decode_audio
from shards.utterance import Utterance
from tests.small_world import make_sample, write_shard

EVERYTHING = Needs(audio=True, vision=True)


def read(path: Path, needs: Needs = EVERYTHING, **options: object) -> tuple[ShardOpened, list[Utterance]]:
    stream = ShardReader(MediaConfig(), needs).read(str(path), **options)  # type: ignore[arg-type]
    opened = next(stream)
    assert isinstance(opened, ShardOpened)
    return opened, [utterance for chunk in stream if isinstance(chunk, list) for utterance in chunk]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Eight good utterances."""
    path = tmp_path / "shard.tar"
    write_shard(path, [make_sample(number) for number in range(8)])
    return path


def test_an_utterance_holds_what_its_sample_holds(shard: Path) -> None:
    """Sound, face, words, speaker and truth arrive decoded, with the sample's key and duration."""
    opened, utterances = read(shard)
    assert opened == ShardOpened(8, None)
    for number, utterance in enumerate(utterances):
        sample = make_sample(number)
        assert (utterance.index, utterance.key, utterance.speaker) == (number, sample.key, sample.speaker)
        assert utterance.audio is not None
        np.testing.assert_array_equal(utterance.audio, decode_audio(sample.audio or b""))
        assert utterance.duration_seconds == pytest.approx(len(utterance.audio) / SAMPLE_RATE_HZ, abs=1e-3)
        np.testing.assert_array_equal(utterance.face_features, sample.face_features)
        assert (utterance.transcript, utterance.emotion) == (sample.transcript, sample.emotion)


def test_reading_from_the_middle_one_by_one_gives_the_same_utterances(shard: Path) -> None:
    """What a replacement reader delivers is what the first one would have."""
    _, whole = read(shard)
    _, rest = read(shard, start=3, one_by_one=True)
    assert [utterance.index for utterance in rest] == [3, 4, 5, 6, 7]
    for ours, theirs in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(ours.audio, theirs.audio)
        assert (ours.key, ours.offset, ours.size) == (theirs.key, theirs.offset, theirs.size)


def test_sound_nobody_looks_at_is_not_decoded(shard: Path) -> None:
    """A panel of words alone costs no decoding."""
    _, utterances = read(shard, Needs(audio=False, vision=False))
    assert all(utterance.audio is None and utterance.error is None for utterance in utterances)


def test_corrupt_sound_is_a_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    """One bad sample costs one utterance, which says why."""
    samples = [make_sample(number) for number in range(3)]
    object.__setattr__(samples[1], "audio", b"fLaC" + b"\x00" * 50)
    path = tmp_path / "shard.tar"
    write_shard(path, samples)
    _, utterances = read(path)
    assert [utterance.error is None for utterance in utterances] == [True, False, True]
    assert utterances[1].key == samples[1].key

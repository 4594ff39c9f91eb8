"""Streams of utterances survive their readers, and a sample that no reader survives is named."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.reading.reader_actor import (
    CRASHES_BEFORE_BLAME,
    ReaderLostError,
    ReaderSlot,
    ShardStream,
)
from actors.reading.utterance import Utterance
from tests.worlds.small import make_sample, write_shard

NEEDS = Needs(audio=True, vision=False)


@ray.remote(max_restarts=0, num_cpus=0)
class FragileReader:
    """A reader whose process dies, as a codec would kill it.

    It dies at the utterance `fatal`, the first `num_deaths` times it gets there.
    """

    def __init__(self, fatal: int, diary: str, num_deaths: int) -> None:
        self._fatal, self._diary, self._num_deaths = fatal, Path(diary), num_deaths

    def read(
        self, url: str, start: int, one_by_one: bool
    ) -> Iterator[ShardOpened | list[Utterance]]:
        for item in ShardReader(MediaConfig(), NEEDS).read(url, start=start, one_by_one=one_by_one):
            numbers = (
                [-1] if isinstance(item, ShardOpened) else [utterance.index for utterance in item]
            )

            deaths = len(self._diary.read_text()) if self._diary.exists() else 0
            if self._fatal in numbers and deaths < self._num_deaths:
                self._diary.write_text("x" * (deaths + 1))
                os._exit(1)
            yield item


class FragileSlot(ReaderSlot):
    """A slot that makes fragile readers."""

    fatal: tuple[int, str, int]

    def submit(self, url: str, start: int, *, one_by_one: bool) -> Any:
        if self.handle is None:
            self.handle = FragileReader.remote(*self.fatal)
        return self.handle.read.options(num_returns="streaming").remote(url, start, one_by_one)


def fragile_stream(shard: Path, *, fatal: int, num_deaths: int) -> ShardStream:
    slot = FragileSlot(media=MediaConfig(), needs=NEEDS, options={})
    slot.fatal = (fatal, str(shard.with_suffix(".diary")), num_deaths)
    return ShardStream(slot, str(shard))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Six utterances in a tar."""
    path = tmp_path / "shard.tar"
    write_shard(path, [make_sample(number) for number in range(6)])
    return path


@pytest.mark.usefixtures("local_ray")
def test_a_lost_reader_is_replaced_and_nothing_is_read_twice(shard: Path) -> None:
    """After a crash the stream goes on at the next undelivered utterance, and repeats none."""
    utterances = list(fragile_stream(shard, fatal=3, num_deaths=1))
    assert [utterance.index for utterance in utterances] == [0, 1, 2, 3, 4, 5]
    assert [utterance.error for utterance in utterances] == [None] * 6


@pytest.mark.usefixtures("local_ray")
def test_a_sample_no_reader_survives_is_named(shard: Path) -> None:
    """The culprit becomes a row with its key, place and reason, and those behind it are read."""
    utterances = list(fragile_stream(shard, fatal=3, num_deaths=99))
    assert [utterance.index for utterance in utterances] == [0, 1, 2, 3, 4, 5]

    culprit = utterances.pop(3)
    assert culprit.key == "utterance-00003"
    assert culprit.size > 0
    assert culprit.error is not None
    assert culprit.error.startswith(f"reader_crashed: {CRASHES_BEFORE_BLAME} readers")

    assert all(utterance.error is None for utterance in utterances)


@pytest.mark.usefixtures("local_ray")
def test_readers_that_never_open_a_shard_are_not_the_samples_fault(shard: Path) -> None:
    """When readers die before they open the shard, the node is at fault, and no sample is."""
    with pytest.raises(ReaderLostError, match="before they could open"):
        list(fragile_stream(shard, fatal=-1, num_deaths=99))


@pytest.mark.usefixtures("local_ray")
def test_a_shard_that_cannot_be_opened_raises_oserror(tmp_path: Path) -> None:
    """A missing file raises the storage's error, as it is no damaged shard."""
    slot = ReaderSlot(media=MediaConfig(), needs=NEEDS, options={"num_cpus": 0})
    with pytest.raises(OSError, match=r"nothing\.tar"):
        ShardStream(slot, str(tmp_path / "nothing.tar")).open()

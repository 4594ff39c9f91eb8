"""The unit of work: windows that do not depend on arrival, and a table that is always the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from actors.labeling.panel import Panel
from actors.labeling.shard import label_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardReader
from actors.reading.utterance import Utterance
from actors.work.task import WINDOW_BYTES, WINDOW_UTTERANCES, ShardProgress, ShardTask, windows
from tests.worlds.small import make_small_world


def utterance(index: int, num_samples: int = 0) -> Utterance:
    return Utterance(
        index=index, key=str(index), offset=0, size=0, audio=np.zeros(num_samples, dtype=np.float32)
    )


@given(st.lists(st.integers(0, 2_000_000), max_size=60))
def test_windows_keep_every_utterance_in_order_and_stay_small(sizes: list[int]) -> None:
    """Windows lose and move nothing, and exceed the bound in bytes by one utterance at most."""
    stream = [utterance(index, size) for index, size in enumerate(sizes)]
    progress = ShardProgress()
    cut = list(windows(stream, progress))

    assert progress.num_utterances == len(sizes)
    assert [item.index for window in cut for item in window] == list(range(len(sizes)))
    for window in cut:
        assert 0 < len(window) <= WINDOW_UTTERANCES
        assert sum(4 * sizes[item.index] for item in window[:-1]) < WINDOW_BYTES


@pytest.fixture(scope="module")
def panel_and_shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Panel, str]:
    """A loaded panel and one shard for it."""
    world = make_small_world(tmp_path_factory.mktemp("world"), num_shards=1, per_shard=5)
    config = PanelConfig.load(str(world.panel))
    panel = Panel(config, panel_identity(config))
    panel.setup(num_threads=1)
    return panel, str(world.shards / "small-000.tar")


def utterances_of(shard: str) -> Iterator[Utterance]:
    reader = ShardReader(MediaConfig(), Needs(audio=True, vision=True))
    for item in reader.read(shard):
        if isinstance(item, list):
            yield from item


def test_a_writer_believed_dead_that_commits_late_changes_nothing(
    panel_and_shard: tuple[Panel, str], tmp_path: Path
) -> None:
    """A late commit of a shard that another worker has committed writes the same bytes."""
    panel, shard = panel_and_shard
    table = tmp_path / "table.parquet"
    task = ShardTask(
        url=shard, name="small-000.tar", size=1, version="1", table_url=str(table), maker="d"
    )
    committed: list[bytes] = []

    def interrupted() -> Iterator[Utterance]:
        for item in utterances_of(shard):
            if item.index == 3:
                label_shard(
                    task, panel, utterances_of(shard), shard_error=None, progress=ShardProgress()
                )
                committed.append(table.read_bytes())
            yield item

    outcome = label_shard(task, panel, interrupted(), shard_error=None, progress=ShardProgress())

    assert outcome.num_utterances == 5
    assert committed == [table.read_bytes()]
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]

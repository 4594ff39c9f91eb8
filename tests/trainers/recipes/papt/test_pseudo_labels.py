"""Pseudo-labels are the nearest centers, stored in one file for each shard and made once."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import cdist

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import BatchReader
from tests.worlds.training import heard, write_training_world
from trainers.recipes.papt.frame_features import Mfcc
from trainers.recipes.papt.pseudo_labels import PseudoLabelJob, PseudoLabels

NUM_LABELS = 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("packed"))).split(
        "train", "validation", "test"
    )


def job(folder: Path, corpus: CorpusIndex, number: int = NUM_LABELS) -> PseudoLabelJob:
    return PseudoLabelJob(folder, corpus, Mfcc(), {"num_labels": number})


def run(
    folder: Path, corpus: CorpusIndex, number: int = NUM_LABELS, num_ranks: int = 1
) -> PseudoLabels:
    for rank in range(num_ranks):
        mine = job(folder, corpus, number)
        mine.fit(num_labels=number, max_frames=2000, seed=0)
        mine.assign(lambda *_: None, rank=rank, world_size=num_ranks)
    return job(folder, corpus, number).read()


def test_a_label_is_the_nearest_center(corpus: CorpusIndex, tmp_path: Path) -> None:
    """In every shard, each frame gets the label of the nearest center, and all centers are used."""
    labels = run(tmp_path, corpus)
    centers = np.load(tmp_path / "centres.npy")
    reader, used = BatchReader(corpus, ["sound"]), set[int]()

    for row in range(0, len(corpus), 5):
        batch = reader[0, PlannedBatch(np.asarray([row]), np.zeros(1, dtype=np.int64))]
        frames = Mfcc()(*heard(batch))[0]
        found = labels.aligned(row, 0, len(frames), Mfcc.hop_samples)
        np.testing.assert_array_equal(found, cdist(frames, centers).argmin(axis=1))
        used |= set(found.tolist())

    stored = pq.read_table(tmp_path / "shard-000000.parquet").to_pylist()
    assert [row["key"] for row in stored] == corpus.table["key"].to_pylist()[: len(stored)]
    assert len(used) == NUM_LABELS


def test_ranks_share_the_shards(corpus: CorpusIndex, tmp_path: Path) -> None:
    """Two ranks leave the same files as one."""
    run(tmp_path / "one", corpus)
    run(tmp_path / "two", corpus, num_ranks=2)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 5
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )


def test_finished_shards_are_not_opened_again(corpus: CorpusIndex, tmp_path: Path) -> None:
    """A job that lost one file writes only that file; with other options it starts anew."""
    run(tmp_path, corpus)
    lost, kept = tmp_path / "shard-000001.parquet", tmp_path / "shard-000002.parquet"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()

    run(tmp_path, corpus)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp

    run(tmp_path, corpus, number=5)
    assert len(np.load(tmp_path / "centres.npy")) == 5
    assert kept.stat().st_mtime_ns != stamp


def test_more_labels_than_frames_is_refused(corpus: CorpusIndex, tmp_path: Path) -> None:
    """The message counts the frames of the shards."""
    with pytest.raises(ConfigError, match="num_labels: got 60000, but the shards have 2000 frames"):
        run(tmp_path, corpus, number=60_000)


def test_labels_follow_the_encoders_frames() -> None:
    """A crop from the eighth label gets every fourth; beyond the end the last label stands."""
    labels = PseudoLabels([np.arange(20, dtype=np.uint16)], hop_samples=160)
    assert labels.aligned(0, 8 * 160, 5, 640).tolist() == [8, 12, 16, 19, 19]
    assert labels.take(np.asarray([0, 0])).aligned(1, 0, 3, 160).tolist() == [0, 1, 2]

"""Feature files: any tool reads them, from any position, and only those of the shards at hand."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from shards.config import ConfigError
from shards.tables.feature_store import FeatureStore, open_features
from shards.tables.features import FeatureInfo, FeatureRow, FeatureWriter, read_header

LAYERS, WIDTH = (0, 3), 5
LENGTHS = {"a": 4, "b": 1, "c": 7}


def frames_of(key: str) -> NDArray[np.float16]:
    """Numbers that no other utterance has."""
    shape = (LENGTHS[key], len(LAYERS), WIDTH)
    return np.random.default_rng(ord(key)).standard_normal(shape).astype(np.float16)


def make_info(shard: Path) -> FeatureInfo:
    status = shard.stat()
    return FeatureInfo(
        encoder="encoders/e",
        fingerprint="features:1",
        layers=list(LAYERS),
        width=WIDTH,
        shard=shard.name,
        shard_url=str(shard),
        shard_size=status.st_size,
        shard_version=str(status.st_mtime_ns),
        shard_error=None,
        num_rows=len(LENGTHS) + 1,
    )


def tokens_of(key: str) -> NDArray[np.float16]:
    return np.random.default_rng(-ord(key) % 1000).standard_normal((2, WIDTH)).astype(np.float16)


def write(url: Path, info: FeatureInfo) -> None:
    with FeatureWriter() as writer:
        for offset, (key, number) in enumerate(LENGTHS.items()):
            row = FeatureRow(
                key=key, offset=512 * offset, duration_seconds=2.0, num_frames=number, error=None
            )
            writer.add(row, frames_of(key), tokens_of(key) if info.num_tokens else None)

        bad = FeatureRow(
            key="a", offset=9999, duration_seconds=None, num_frames=0, error="duplicate_key: again"
        )
        writer.add(bad, None)
        writer.commit(str(url), info)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A file that stands for a shard, and features of it in `features/`."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 1024)
    (tmp_path / "features").mkdir()
    write(tmp_path / "features" / "a-0.safetensors", make_info(path))
    return path


def store_of(shard: Path) -> FeatureStore:
    return open_features(str(shard.parent / "features"), str(shard))


def test_the_library_reads_what_we_write(shard: Path) -> None:
    """safetensors itself finds the very tensors, whole and by slices."""
    with safe_open(shard.parent / "features" / "a-0.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(LENGTHS)
        for key in LENGTHS:
            np.testing.assert_array_equal(file.get_tensor(key), frames_of(key))
        np.testing.assert_array_equal(file.get_slice("c")[2:5], frames_of("c")[2:5])


def test_any_position_can_be_read(shard: Path) -> None:
    """An utterance is found by key or offset, its frames by slices, also in another process."""
    store = pickle.loads(pickle.dumps(store_of(shard)))
    for frames in (slice(None), slice(2, 5), slice(-3, None), slice(5, 2), slice(0, 99)):
        np.testing.assert_array_equal(store.read(str(shard), "c", frames), frames_of("c")[frames])

    np.testing.assert_array_equal(store.read(str(shard), 512), frames_of("b"))
    assert store.info.layers == list(LAYERS)


def test_tokens_lie_beside_the_frames(shard: Path) -> None:
    """Both are found by our reader and the library; a file without tokens says the remedy."""
    with pytest.raises(ConfigError, match="hold no extra tokens; make them with"):
        store_of(shard).read_tokens(str(shard), "a")

    path = shard.parent / "features" / "a-0.safetensors"
    assert b"num_tokens" not in path.read_bytes()
    write(path, dataclasses.replace(make_info(shard), num_tokens=2))
    store = store_of(shard)
    with safe_open(path, "np") as file:
        for key in LENGTHS:
            np.testing.assert_array_equal(store.read(str(shard), key), frames_of(key))
            np.testing.assert_array_equal(store.read_tokens(str(shard), key), tokens_of(key))
            np.testing.assert_array_equal(file.get_tensor(f"{key}.tokens"), tokens_of(key))

    with pytest.raises(ConfigError, match="9999 has no features: duplicate_key"):
        store.read_tokens(str(shard), 9999)


def test_rejected_utterances_keep_their_reason(shard: Path) -> None:
    """A reason is found by offset, hides no good utterance of its key, and is no silent blank."""
    store = store_of(shard)
    row = store.find(str(shard), 9999)
    assert row is not None
    assert row.error == "duplicate_key: again"
    np.testing.assert_array_equal(store.read(str(shard), "a"), frames_of("a"))

    with pytest.raises(ConfigError, match="9999 has no features: duplicate_key: again"):
        store.read(str(shard), 9999)
    with pytest.raises(ConfigError, match="'d' has no features: it was not in the shard"):
        store.read(str(shard), "d")


def test_the_same_frames_give_the_same_bytes(shard: Path) -> None:
    """A shard that is done twice gives one file."""
    again = shard.parent / "again.safetensors"
    write(again, make_info(shard))
    assert again.read_bytes() == (shard.parent / "features" / "a-0.safetensors").read_bytes()


def test_features_of_another_shard_are_refused(shard: Path) -> None:
    """A shard that has changed, or was never there, is named with the remedy."""
    shard.write_bytes(b"y" * 2048)
    with pytest.raises(ConfigError, match="has changed since its features were made; run"):
        store_of(shard)

    (shard.parent / "b.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no features of the shard .*b\.tar"):
        open_features(str(shard.parent / "features"), f"{shard.parent}/b.tar")
    with pytest.raises(ConfigError, match="holds no features; run"):
        open_features(str(shard.parent), str(shard))


def test_a_corpus_that_has_moved_keeps_its_features(shard: Path) -> None:
    """A shard is known by its name, size and time where its path is another."""
    (shard.parent / "moved").mkdir()
    moved = shard.rename(shard.parent / "moved" / "a.tar")
    store = open_features(str(shard.parent / "features"), str(moved))
    np.testing.assert_array_equal(store.read(str(moved), "a"), frames_of("a"))


def test_two_encoders_in_one_folder_are_refused(shard: Path) -> None:
    """Features of two encoders are not mixed."""
    other = dataclasses.replace(make_info(shard), fingerprint="features:2")
    write(shard.parent / "features" / "a-1.safetensors", other)
    with pytest.raises(ConfigError, match="got features of several encoders"):
        store_of(shard)


@pytest.mark.parametrize("num_bytes", [0, 4, 100, -1])
def test_damaged_files_are_named(shard: Path, num_bytes: int) -> None:
    """A file that is cut anywhere is refused with its name."""
    path = shard.parent / "features" / "a-0.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ConfigError, match=r"a-0\.safetensors: not a readable feature file"):
        read_header(str(path))

"""Inputs are the stored frames, pooled and mixed as asked, or columns of the shards at hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import SCHEMA, CorpusIndex
from shards.tables.feature_store import open_features
from shards.tables.features import FeatureInfo, FeatureRow, FeatureWriter
from shards.tables.predictions import Prediction, TableInfo, write_predictions
from trainers.probing.config import InputName, LayersName, ProbeConfig
from trainers.probing.inputs import FeatureInputs, open_inputs
from trainers.probing.loop import _scale_of

NUM_FRAMES, WIDTH = 5, 3
LAYERS = (12, 9, 10, 11)  # in an order of their own


def frames() -> NDArray[np.float16]:
    shape = (NUM_FRAMES, len(LAYERS), WIDTH)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float16)


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusIndex:
    """One shard of three utterances: with features, without, and forgotten by the tables."""
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"x" * 2048)
    rows = [
        {"key": key, "shard": str(shard), "offset": 512 * place, "size": 512, "json": "{}"}
        for place, key in enumerate(("good", "bad", "forgotten"))
    ]
    return CorpusIndex(pa.Table.from_pylist(rows, schema=SCHEMA))


def open_stored(
    corpus: CorpusIndex,
    view: InputName = "frames",
    layers: LayersName = "last",
    stored: tuple[int, ...] = LAYERS,
    num_tokens: int = 0,
) -> FeatureInputs:
    """Write features of the corpus and open them as inputs."""
    shard = Path(corpus.table["shard"][0].as_py())
    info = FeatureInfo(
        encoder="e",
        fingerprint="features:1",
        layers=list(stored),
        width=WIDTH,
        shard=shard.name,
        shard_url=str(shard),
        shard_size=2048,
        shard_version=str(shard.stat().st_mtime_ns),
        shard_error=None,
        num_rows=2,
        num_tokens=num_tokens,
    )
    good = FeatureRow(key="good", offset=0, duration_seconds=1.0, num_frames=NUM_FRAMES, error=None)
    bad = FeatureRow(
        key="bad", offset=512, duration_seconds=None, num_frames=0, error="no_audio: none"
    )

    (shard.parent / "features").mkdir()
    with FeatureWriter() as writer:
        tokens = np.arange(num_tokens * WIDTH, dtype=np.float16).reshape(num_tokens, WIDTH)
        writer.add(good, frames()[:, : len(stored)], tokens if num_tokens else None)
        writer.add(bad, None)
        writer.commit(f"{shard.parent}/features/a.safetensors", info)
    return FeatureInputs(
        open_features(f"{shard.parent}/features", str(shard)), corpus, view, layers
    )


def test_layers_are_found_by_their_numbers(corpus: CorpusIndex) -> None:
    """The last layer is the one of the highest number, wherever it lies in the file."""
    np.testing.assert_array_equal(open_stored(corpus).read(0), frames()[:, :1])


def test_the_last_four_layers_are_averaged(corpus: CorpusIndex) -> None:
    """As emotion2vec does for sentiment, to the precision of float16."""
    wanted = frames().astype(np.float64).mean(axis=1, keepdims=True)
    found = open_stored(corpus, layers="last4").read(0)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_weighted_layers_come_in_their_order(corpus: CorpusIndex) -> None:
    """All layers, the lowest first, so that weight l belongs to layer l."""
    inputs = open_stored(corpus, layers="weighted")
    assert inputs.num_layers == 4
    np.testing.assert_array_equal(inputs.read(0), frames()[:, [1, 2, 3, 0]])


def test_views_of_an_utterance(corpus: CorpusIndex, tmp_path: Path) -> None:
    """The mean; each frame with the mean beside it; mean and spread."""
    last = frames()[:, 0].astype(np.float32)
    mean, spread = last.mean(axis=0), last.std(axis=0)
    store = open_stored(corpus)._store

    views: tuple[InputName, ...] = ("utterance", "both", "statistics")
    found = {view: FeatureInputs(store, corpus, view, "last").read(0)[:, 0] for view in views}
    np.testing.assert_allclose(found["utterance"], mean[None], rtol=1e-6)
    np.testing.assert_allclose(found["statistics"], np.concatenate([mean, spread])[None], rtol=1e-5)
    wanted = np.concatenate([last, np.tile(mean, (NUM_FRAMES, 1))], axis=1)
    np.testing.assert_allclose(found["both"], wanted, atol=1e-3)


def test_tokens_are_averaged_and_stand_beside_frames(corpus: CorpusIndex) -> None:
    """Two tokens, 0 1 2 and 3 4 5, have the mean 1.5 2.5 3.5."""
    inputs = open_stored(corpus, view="tokens", num_tokens=2)
    np.testing.assert_array_equal(inputs.read(0), [[[1.5, 2.5, 3.5]]])

    both = FeatureInputs(inputs._store, corpus, "frames+tokens", "last").read(0)
    np.testing.assert_array_equal(both[..., :WIDTH], frames()[:, :1])
    np.testing.assert_array_equal(both[:, 0, WIDTH:], [[1.5, 2.5, 3.5]] * NUM_FRAMES)


def test_features_without_tokens_are_refused(corpus: CorpusIndex) -> None:
    """And so are layers that tokens are not kept of."""
    with pytest.raises(ConfigError, match="--input tokens: the features hold no extra tokens"):
        open_stored(corpus, view="tokens")
    with pytest.raises(ConfigError, match="tokens are kept of the last layer only"):
        ProbeConfig(shards="s", out="o", features="f", input="tokens", layers="last4")


def test_utterances_without_features_have_reasons(corpus: CorpusIndex) -> None:
    """The reason of the file, or that the file does not know the utterance."""
    inputs = open_stored(corpus)
    assert [inputs.problem(row) for row in range(3)] == [
        None,
        "no_audio: none",
        "no_features: it was not in the shard",
    ]


def test_layers_that_were_not_stored_are_refused(corpus: CorpusIndex) -> None:
    """Four stored layers that are not neighbors are not the last four."""
    with pytest.raises(ConfigError, match="--layers last4: the features hold the layers 0, 4, 8"):
        open_stored(corpus, layers="last4", stored=(0, 4, 8, 12))


def write_column(corpus: CorpusIndex, vectors: list[NDArray[np.float32] | None]) -> Path:
    """Write a prediction table of the shard with the column acoustics."""
    shard = Path(corpus.table["shard"][0].as_py())
    rows = [
        Prediction(
            key=f"k{place}",
            shard=shard.name,
            offset=512 * place,
            size=512,
            objectives={} if vector is None else {"acoustics": vector},
        )
        for place, vector in enumerate(vectors)
    ]
    info = TableInfo(
        panel_digest="panel",
        panel={},
        labelers={},
        shard=shard.name,
        shard_url=str(shard),
        shard_size=2048,
        shard_version=str(shard.stat().st_mtime_ns),
        shard_error=None,
        num_rows=len(rows),
    )
    folder = shard.parent / "predictions"
    folder.mkdir()
    write_predictions(f"{folder}/a.parquet", rows, info)
    return folder


def column_config(corpus: CorpusIndex, folder: Path) -> ProbeConfig:
    shard = corpus.table["shard"][0].as_py()
    return ProbeConfig(shards=shard, out="out", predictions=str(folder))


def test_descriptors_are_found_by_shard_and_offset(corpus: CorpusIndex) -> None:
    """A vector is one frame of one layer; a missing one, or one of NaN alone, has a reason."""
    whispered = np.arange(25, dtype=np.float32)
    whispered[0] = np.nan
    vectors = [whispered, None, np.full(25, np.nan, dtype=np.float32)]
    inputs, origin = open_inputs(column_config(corpus, write_column(corpus, vectors)), corpus)
    np.testing.assert_array_equal(inputs.read(0), whispered[None, None])
    assert [inputs.problem(row) is None for row in range(3)] == [True, False, False]
    assert (origin.encoder, inputs.is_scaled) == ("acoustics", True)


def test_descriptors_of_a_changed_shard_are_refused(corpus: CorpusIndex) -> None:
    """And so are tables without the column."""
    folder = write_column(corpus, [np.ones(25, dtype=np.float32)])
    Path(corpus.table["shard"][0].as_py()).write_bytes(b"y")
    with pytest.raises(ConfigError, match="has changed since it was labeled"):
        open_inputs(column_config(corpus, folder), corpus)


def test_tables_without_descriptors_are_refused(corpus: CorpusIndex) -> None:
    """The message says which objective the panel needs."""
    folder = write_column(corpus, [None])
    with pytest.raises(ConfigError, match="no table of these shards has a column `acoustics`"):
        open_inputs(column_config(corpus, folder), corpus)


def test_a_number_that_an_utterance_lacks_takes_the_mean_of_the_others(
    corpus: CorpusIndex,
) -> None:
    """Mean and spread are of the training utterances that have the number."""
    vectors = [np.array(pair, dtype=np.float32) for pair in ((1, 5), (3, np.nan), (np.nan, 9))]
    inputs, _ = open_inputs(column_config(corpus, write_column(corpus, list(vectors))), corpus)
    scale = _scale_of(inputs, np.arange(3))

    scaled = [scale(torch.from_numpy(inputs.read(row))).flatten().tolist() for row in range(3)]
    assert scaled == [[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]

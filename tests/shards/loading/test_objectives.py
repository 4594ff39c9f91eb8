"""The objectives of prediction tables, joined to the utterances of an index."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.loading.objectives import join_objectives
from shards.storage.files import list_files
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from tests.worlds.labeled import label
from tests.worlds.small import make_sample, write_shard


@pytest.fixture
def raw(tmp_path: Path) -> str:
    """Two shards of a speaker each."""
    config = WorldConfig(seed=2, mean_utterances=3.0, min_utterances=3)
    write_corpus(config, str(tmp_path / "raw"), speakers=range(2), speakers_per_shard=1)
    return str(tmp_path / "raw")


def number_of(index: CorpusIndex) -> NDArray[np.float32]:
    """A number of its own for every utterance [N, 1]."""
    return np.arange(len(index), dtype=np.float32)[:, None] + 1


def test_every_utterance_gets_its_own_objectives(tmp_path: Path, raw: str) -> None:
    """By shard and offset, whatever the order of the tables' rows or of the index."""
    index = read_index(raw)
    acoustics = np.concatenate([number_of(index), -number_of(index)], axis=1)
    label(tmp_path / "predictions", raw, {"acoustics": acoustics})

    shuffled = np.random.default_rng(0).permutation(len(index))
    found = join_objectives(
        index.take(shuffled), raw, str(tmp_path / "predictions"), ["acoustics"]
    )["acoustics"]

    np.testing.assert_array_equal(found.array, acoustics[shuffled])
    assert found.values == ("pitch", "level")
    assert found.known.all()


def test_what_is_missing_is_unknown(tmp_path: Path, raw: str) -> None:
    """An utterance without a result, and a table without the column, give NaN and no error."""
    index = read_index(raw)
    sentiment = np.tile(np.array([0.2, 0.3, 0.5], dtype=np.float32), (len(index), 1))
    arrays = {"acoustics": np.repeat(number_of(index), 2, axis=1), "sentiment": sentiment}
    label(tmp_path / "predictions", raw, arrays, left_out=[1], lacking={"sentiment": [1]})

    found = join_objectives(index, raw, str(tmp_path / "predictions"), ["acoustics", "sentiment"])

    first = np.array(index.table["shard"].to_pylist()) == list_files(raw)[0].url
    others = np.arange(len(index)) != 1
    np.testing.assert_array_equal(found["acoustics"].known, others)
    np.testing.assert_array_equal(found["sentiment"].known, others & first)
    assert found["sentiment"].values == ("negative", "neutral", "positive")


def test_a_join_by_pandas_gives_the_same(tmp_path: Path, raw: str) -> None:
    """With a column that one table lacks, rows without a result, and keys that others have too."""
    for number, place in enumerate(list_files(raw)):
        samples = [make_sample(7 * number + row) for row in range(7)]
        # As in packed shards of two corpora, whose keys are counted from 0 in each.
        write_shard(Path(place.url), [replace(s, key=f"{n:06d}") for n, s in enumerate(samples)])
    index = read_index(raw)
    assert len(set(index.table["key"].to_pylist())) == len(index) / 2

    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal((len(index), width)).astype(np.float32)
        for name, width in (("acoustics", 2), ("sentiment", 3), ("face_embedding", 4))
    }
    arrays["acoustics"][5, 1] = np.nan
    lacking = {"face_embedding": [0], "sentiment": [1]}
    label(tmp_path / "predictions", raw, arrays, left_out=[1, 9], lacking=lacking)

    order = rng.permutation(len(index))
    found = join_objectives(index.take(order), raw, str(tmp_path / "predictions"), list(arrays))

    tables = [
        pd.read_parquet(path).assign(name=path.name.partition(".tar")[0])
        for path in sorted((tmp_path / "predictions").glob("*.parquet"))
    ]
    rows = index.take(order).table.select(["shard", "offset"]).to_pandas()
    rows["name"] = [Path(url).stem for url in rows["shard"]]
    expected = rows.merge(pd.concat(tables), how="left", on=["name", "offset"], validate="1:1")

    for name, array in arrays.items():
        unknown = np.full(array.shape[1], np.nan)
        values = [unknown if one is None or one is np.nan else one for one in expected[name]]
        np.testing.assert_array_equal(found[name].array, np.stack(values).astype(np.float32))
        assert found[name].known.any()
        assert not found[name].known.all()


def test_one_unknown_number_does_not_hide_the_others(tmp_path: Path, raw: str) -> None:
    """A voiceless utterance has no pitch, and still a level."""
    index = read_index(raw)
    acoustics = np.repeat(number_of(index), 2, axis=1)
    acoustics[2, 0] = np.nan
    label(tmp_path / "predictions", raw, {"acoustics": acoustics})

    found = join_objectives(index, raw, str(tmp_path / "predictions"), ["acoustics"])["acoustics"]

    np.testing.assert_array_equal(found.array, acoustics)
    assert found.known.all()


def test_a_corpus_that_has_moved_keeps_its_tables(tmp_path: Path, raw: str) -> None:
    """Shards at another place are known by their names and sizes."""
    index = read_index(raw)
    label(tmp_path / "predictions", raw, {"acoustics": np.repeat(number_of(index), 2, axis=1)})

    moved = tmp_path / "elsewhere"
    Path(raw).rename(moved)
    found = join_objectives(
        read_index(str(moved)), str(moved), str(tmp_path / "predictions"), ["acoustics"]
    )
    assert found["acoustics"].known.all()


def test_tables_that_do_not_fit_are_refused(tmp_path: Path, raw: str) -> None:
    """The error names the shard that changed or has no table, the panels, and what is there."""
    predictions = tmp_path / "predictions"
    index = read_index(raw)
    arrays = {"acoustics": np.repeat(number_of(index), 2, axis=1)}

    label(predictions, raw, arrays)
    with pytest.raises(ConfigError, match="no table has the objective sentiment"):
        join_objectives(index, raw, str(predictions), ["sentiment"])

    first, second = list_files(raw)
    (predictions / f"{second.name}-0123456789ab.parquet").unlink()
    with pytest.raises(ConfigError, match=f"no table of 1 shards .{second.name}"):
        join_objectives(index, raw, str(predictions), ["acoustics"])

    label(predictions, raw, arrays, digests=("one", "two"))
    with pytest.raises(ConfigError, match="tables of 2 panels"):
        join_objectives(index, raw, str(predictions), ["acoustics"])

    label(predictions, raw, arrays)
    Path(first.url).touch()
    with pytest.raises(ConfigError, match="has changed since it was labeled"):
        join_objectives(index, raw, str(predictions), ["acoustics"])

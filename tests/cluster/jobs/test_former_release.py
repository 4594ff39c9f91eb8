"""A corpus that the last release imported and labeled: nothing is labeled twice."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.jobs.plan import earlier_tables, make_plan
from shards.importing.config import ImportConfig
from shards.importing.job import import_table
from shards.samples.content import SEEN_BY_LABELERS
from shards.samples.sample import parse_sample
from shards.storage.files import list_files, open_ranged
from shards.storage.parquet import METADATA_KEY
from shards.tables.earlier import EarlierRows, index_results
from shards.tables.predictions import (
    READABLE_FORMATS,
    Prediction,
    load_predictions,
    write_predictions,
)
from shards.tar.reader import index_shard, read_members
from tests.shards.importing.test_job import root, row, write_csv
from tests.shards.selection.inputs import INFO, one_hot

__all__ = ["root"]

FORMER = "shard-000000-0123456789ab.tar"


def write_former_table(shard: Path, out: Path) -> Path:
    """The table that the last release made of `shard`; it could not read the last sample."""
    (file,) = list_files(str(shard))
    with open_ranged(file.url) as reader:
        entries = index_shard(reader).entries
    rows = [
        Prediction(
            key=entry.key,
            shard=shard.name,
            offset=entry.offset,
            size=entry.size,
            audio=one_hot("fear") if entry is not entries[-1] else None,
            error=None if entry is not entries[-1] else "corrupt_audio: broken",
        )
        for entry in entries
    ]
    info = dataclasses.replace(
        INFO,
        panel_digest="new",
        shard=shard.name,
        shard_url=file.url,
        shard_size=file.size,
        shard_version=file.version,
        num_rows=len(rows),
    )
    identity = json.dumps([1, "new", shard.name, file.size, file.version])
    url = out / f"{shard.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.parquet"
    write_predictions(str(url), rows, info)

    table = pq.read_table(url).drop_columns(["content"])
    footer = json.loads(table.schema.metadata[METADATA_KEY]) | {"format_version": 1}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(footer)}), url)
    return url


@pytest.fixture
def former(root: Path, tmp_path: Path) -> Path:
    """A folder of one shard, named and labeled as the last release did."""
    table = write_csv(tmp_path / "t.csv", [row(number) for number in range(4)])
    (tmp_path / "predictions").mkdir()
    config = ImportConfig(table=str(table), root=str(root), out=str(tmp_path / "shards"))
    (name,) = import_table(config).shards
    shutil.move(tmp_path / "shards" / name, tmp_path / "shards" / FORMER)
    next((tmp_path / "shards").glob(".rows-*.parquet")).unlink()
    write_former_table(tmp_path / "shards" / FORMER, tmp_path / "predictions")
    return tmp_path


def test_labels_survive_an_import_that_writes_the_shards_anew(former: Path, root: Path) -> None:
    """A sample that had a label is found by its content, to the bit.

    One without a label is labeled, and so is one whose transcript was corrected.
    """
    rows = [row(0), row(1, transcript="other"), row(2, speaker="ann"), row(3)]
    table = write_csv(former / "t.csv", rows)
    config = ImportConfig(table=str(table), root=str(root), out=str(former / "shards"))
    (name,) = import_table(config).shards
    assert not (former / "shards" / FORMER).exists()
    import_table(config)

    glob = f"{former}/shards/*.tar"
    plan = make_plan(glob, list_files(glob), f"{former}/predictions", "new", READABLE_FORMATS)
    results = index_results(earlier_tables(plan, "new"))

    assert results is not None
    found = EarlierRows(results)
    with open_ranged(f"{former}/shards/{name}") as reader:
        kept = []
        for entry in index_shard(reader).entries:
            members = read_members(reader, entry)
            metadata = parse_sample(entry.key, members).metadata
            kept.append(found.find(SEEN_BY_LABELERS.digest(members, metadata)))
    assert [None if each is None else each["key"] for each in kept] == [
        "clip-0",
        None,
        "clip-2",
        None,
    ]
    assert kept[0] is not None
    np.testing.assert_array_equal(np.float32(kept[0]["audio"]), one_hot("fear"))
    loaded, (info,) = load_predictions(f"{former}/predictions")
    assert info.format_version == 2
    assert loaded["content"].null_count == 1


def test_a_folder_of_the_last_release_is_finished(former: Path) -> None:
    """Without a new import, its tables are those of its shards."""
    glob = f"{former}/shards/*.tar"
    plan = make_plan(glob, list_files(glob), f"{former}/predictions", "new", READABLE_FORMATS)
    assert plan.todo == ()


def test_contents_of_another_version_of_a_shard_are_not_added(former: Path, root: Path) -> None:
    """A table speaks for the shard that it was made from, and for no other."""
    before = next((former / "predictions").glob("*.parquet")).read_bytes()
    with (former / "shards" / FORMER).open("ab") as stream:
        stream.write(bytes(512))
    config = ImportConfig(table=f"{former}/t.csv", root=str(root), out=str(former / "shards"))
    import_table(config)
    glob = f"{former}/shards/*.tar"
    plan = make_plan(glob, list_files(glob), f"{former}/predictions", "new", READABLE_FORMATS)
    assert index_results(earlier_tables(plan, "new")) is None
    assert next((former / "predictions").glob("*.parquet")).read_bytes() == before

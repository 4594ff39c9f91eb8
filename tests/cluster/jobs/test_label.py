"""The labeling job: what it labels, what it leaves alone, and how it accounts for every input."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cluster.exit_status import ExitStatus
from cluster.jobs.label import LabelConfig, label
from shards.config import ConfigError
from shards.storage.files import open_ranged
from shards.tables.predictions import load_predictions
from shards.tar.reader import index_shard
from tests.actors.inference.tiny_checkpoints import write_image
from tests.worlds.small import (
    SmallWorld,
    make_sample,
    make_small_world,
    write_checkpoints,
    write_shard,
)


@pytest.fixture
def world(small_world: SmallWorld, tmp_path: Path) -> SmallWorld:
    """A copy of three of the shards that a test may change."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in sorted(small_world.shards.glob("*.tar"))[:3]:
        shutil.copy2(path, shards)
    return SmallWorld(shards, small_world.panel, 18)


def options(world: SmallWorld, out: Path, address: str, **changes: object) -> LabelConfig:
    values = {
        "shards": world.glob,
        "out": str(out),
        "panel": str(world.panel),
        "address": address,
        "num_labelers": 1,
    }
    return LabelConfig(**(values | changes))  # type: ignore[arg-type]


def modification_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}


def test_every_sample_is_a_row_in_tar_order(
    world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """Each sample is a row with three distributions, each of which sums to one.

    Its offset leads back to the sample.
    """
    summary = label(options(world, tmp_path / "out", ray_address))
    table, infos = load_predictions(str(tmp_path / "out"))

    assert summary.job.num_utterances == table.num_rows == 18
    assert summary.job.exit_status == 0

    for info in infos:
        entries = {
            entry.offset: entry for entry in index_shard(open_ranged(info.shard_url)).entries
        }
        rows = [row for row in table.to_pylist() if row["shard"] == info.shard]
        assert [entries[row["offset"]].key for row in rows] == [row["key"] for row in rows]

    for row in table.to_pylist():
        assert row["error"] is None
        for modality in ("audio", "vision", "text"):
            assert sum(row[modality]) == pytest.approx(1.0, abs=1e-5)


def test_a_finished_job_opens_no_shard_and_loads_no_model(
    world: SmallWorld, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished job that runs again needs no cluster, reads no shard and changes no table."""
    out = tmp_path / "out"
    first = label(options(world, out, ray_address))
    before = modification_times(out)

    for path in world.shards.glob("*.tar"):
        stamp = path.stat()
        path.write_bytes(b"\0" * stamp.st_size)  # a job that reads this shard would fail
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    again = label(options(world, out, "no-such-cluster:1"))
    assert (again.num_labeled, again.job.num_reused) == (0, 3)
    assert (again.job.num_utterances, again.job.rejected) == (
        first.job.num_utterances,
        first.job.rejected,
    )
    assert modification_times(out) == before


@pytest.mark.slow
def test_a_changed_shard_is_labeled_again_and_no_other(
    world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """A change of one shard replaces the table of that shard only."""
    out = tmp_path / "out"
    label(options(world, out, ray_address))
    before = modification_times(out)
    write_shard(world.shards / "small-001.tar", [make_sample(900), make_sample(901)])
    summary = label(options(world, out, ray_address))

    assert (summary.num_labeled, summary.job.num_reused, summary.superseded_tables_removed) == (
        1,
        2,
        1,
    )

    after = modification_times(out)
    assert len(set(after.items()) & set(before.items())) == 2
    assert load_predictions(str(out))[0].num_rows == 14


@pytest.mark.slow
def test_a_changed_panel_labels_everything_again(
    world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """Other weights under the same names are another panel: every table is replaced."""
    panel = tmp_path / "panel.yaml"
    panel.write_text(yaml.safe_dump(write_checkpoints(tmp_path / "checkpoints", seed=0)))
    out = tmp_path / "out"
    first = label(options(world, out, ray_address, panel=str(panel)))
    write_checkpoints(tmp_path / "checkpoints", seed=1)
    second = label(options(world, out, ray_address, panel=str(panel)))

    assert (second.num_labeled, second.superseded_tables_removed) == (3, 3)
    assert first.panel_digest != second.panel_digest
    assert len(modification_times(out)) == 3


def test_rows_and_unreadable_shards_account_for_every_input(
    world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """Bad samples are rows with reasons, bad shards are named, and the exit status says so.

    A second run gives the same account.
    """
    good = world.shards / "small-000.tar"
    (world.shards / "small-cut.tar").write_bytes(good.read_bytes()[:20_000])
    (world.shards / "small-empty.tar").write_bytes(b"")
    (world.shards / "small-noise.tar").write_bytes(b"this is not a tar archive" * 400)

    bad = [make_sample(number) for number in range(100, 104)]
    object.__setattr__(bad[0], "audio", b"fLaC but not really")
    object.__setattr__(bad[1], "audio", b"")
    write_shard(world.shards / "small-bad.tar", bad)

    out = tmp_path / "out"
    summary = label(options(world, out, ray_address))
    assert summary.job.exit_status == ExitStatus.DAMAGED
    assert {shard["shard"] for shard in summary.job.unreadable} == {
        "small-cut.tar",
        "small-empty.tar",
        "small-noise.tar",
    }

    table, _ = load_predictions(str(out))
    errors = {
        row["key"]: row["error"] for row in table.to_pylist() if row["shard"] == "small-bad.tar"
    }
    assert [bool(error) for error in errors.values()] == [True, True, False, False]
    assert summary.job.num_utterances == table.num_rows
    assert (
        summary.job.num_rejected
        == sum(summary.job.rejected.values())
        == sum(error is not None for error in table["error"].to_pylist())
    )
    assert json.loads((out / "label-summary.json").read_text())["rejected"] == summary.job.rejected

    again = label(options(world, out, ray_address))
    assert (again.job.rejected, again.job.unreadable) == (
        summary.job.rejected,
        summary.job.unreadable,
    )
    assert again.job.exit_status == ExitStatus.DAMAGED


def test_two_workers_write_what_one_writes(
    world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """The tables do not depend on which labeler made them, or on how many there were."""
    label(options(world, tmp_path / "one", ray_address, num_labelers=1, num_readers=1))
    label(options(world, tmp_path / "two", ray_address, num_labelers=2, num_readers=3))
    for path in (tmp_path / "one").glob("*.parquet"):
        ours, theirs = pq.read_table(path), pq.read_table(tmp_path / "two" / path.name)
        assert ours.equals(theirs)


def test_a_panel_that_cannot_be_loaded_is_one_clear_error(
    small_world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """A checkpoint without readable weights stops the job at once.

    The summary of an earlier run does not hide it.
    """
    panel = tmp_path / "panel.yaml"
    panel.write_text(yaml.safe_dump(write_checkpoints(tmp_path / "checkpoints")))
    weights = tmp_path / "checkpoints" / "voice" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    world = make_small_world(tmp_path / "world", num_shards=1, per_shard=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "label-summary.json").write_text('{"failed": []}')

    with pytest.raises(ConfigError, match="panel cannot be loaded"):
        label(options(world, tmp_path / "out", ray_address, panel=str(panel)))
    assert not (tmp_path / "out" / "label-summary.json").exists()


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ({}, "detector: none is given, but faces are wanted"),
        ({"detector": "nowhere.onnx"}, "nowhere.onnx is no file"),
    ],
)
def test_an_unusable_face_detector_is_one_clear_error(
    world: SmallWorld, ray_address: str, tmp_path: Path, faces: dict[str, str], message: str
) -> None:
    """A classifier of faces without a usable detector stops the job before the first sample."""
    panel = tmp_path / "panel.yaml"
    vision = {"checkpoint": str(write_image(tmp_path / "vit"))}
    panel.write_text(
        yaml.safe_dump({"vision": vision, "precision": "float32", "media": {"faces": faces}})
    )

    with pytest.raises(ConfigError, match=message):
        label(options(world, tmp_path / "out", ray_address, panel=str(panel)))
    assert not list((tmp_path / "out").glob("*.parquet"))

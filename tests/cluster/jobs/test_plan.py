"""Which tables in a folder a labeling job takes for its own, and which it removes."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from cluster.jobs.label import LabelConfig, label
from cluster.jobs.plan import ShardPlan, make_plan, refuse_other_corpora, remove_superseded
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.storage.files import list_files
from shards.tables.predictions import (
    FORMAT_VERSION,
    Prediction,
    load_predictions,
    write_predictions,
)
from tests.shards.selection.inputs import INFO
from tests.worlds.small import SmallWorld


def corpus(folder: Path, *names: str) -> Path:
    """Empty shards: a plan looks at names and sizes only."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def plan_of(shards: Path, out: Path, panel: str = "new") -> ShardPlan:
    return make_plan(
        f"{shards}/*.tar", list_files(f"{shards}/*.tar"), str(out), panel, FORMAT_VERSION
    )


def commit(plan: ShardPlan) -> set[str]:
    """Write every table of `plan`, and return their names."""
    for task in plan.tasks:
        info = dataclasses.replace(
            INFO, shard=task.name, shard_url=task.url, panel_digest=task.maker
        )
        write_predictions(task.table_url, [], info)
    return {Path(task.table_url).name for task in plan.tasks}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def finished_job(world: SmallWorld, out: Path) -> tuple[LabelConfig, set[str]]:
    """Return a job whose tables are all there, so that it needs no cluster, and their names."""
    mine = commit(
        plan_of(world.shards, out, panel_identity(PanelConfig.load(str(world.panel))).digest)
    )
    return LabelConfig(
        shards=world.glob, out=str(out), panel=str(world.panel), address="nowhere:1"
    ), mine


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_tables_of_an_older_panel_are_superseded(out: Path, tmp_path: Path) -> None:
    """An older panel's tables of the plan's shards go; those of shards outside the plan stay."""
    shards = corpus(tmp_path / "corpus", "a.tar", "b.tar")
    others = commit(plan_of(corpus(tmp_path / "others", "c.tar"), out, "old"))
    commit(plan_of(shards, out, "old"))
    plan = plan_of(shards, out)
    refuse_other_corpora(plan)
    mine = commit(plan)

    assert remove_superseded(plan) == (2, 1)
    assert names(out) == mine | others


def test_tables_of_shards_that_were_cut_anew_are_superseded(out: Path, tmp_path: Path) -> None:
    """Tables of gone shards go when other shards hold all of their utterances.

    A longer import, for example, cuts the same utterances into shards with new names.
    """
    shards = corpus(tmp_path / "corpus", "old.tar", "apart.tar", "copied.tar", "new.tar")
    rows = {"old.tar": (1, 2), "apart.tar": (9,), "copied.tar": (3,), "new.tar": (1, 2, 3, 4)}

    every = plan_of(shards, out)
    for task in every.tasks:
        info = dataclasses.replace(
            INFO, shard=task.name, shard_url=task.url, panel_digest=task.maker
        )
        numbers = rows[task.name]
        found = [
            Prediction(key=f"key-{n}", shard=task.name, offset=512 * n, size=512) for n in numbers
        ]
        write_predictions(task.table_url, found, dataclasses.replace(info, num_rows=len(found)))

    for name in ("old.tar", "apart.tar"):
        (shards / name).unlink()
    kept = {Path(task.table_url).name for task in every.tasks if task.name != "old.tar"}

    plan = make_plan(
        f"{shards}/new.tar", list_files(f"{shards}/new.tar"), str(out), "new", FORMAT_VERSION
    )
    assert remove_superseded(plan) == (1, 2)
    assert names(out) == kept


def test_tables_lie_where_the_driver_says(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative --out means a folder of the driver, not of the worker."""
    shards = corpus(tmp_path / "corpus", "a.tar")
    monkeypatch.chdir(tmp_path)
    files = list_files(f"{shards}/*.tar")
    assert (
        make_plan(f"{shards}/*.tar", files, "out", "new", FORMAT_VERSION).tasks
        == plan_of(shards, out).tasks
    )


def test_the_options_lie_beside_the_tables(small_world: SmallWorld, out: Path) -> None:
    """label.yaml holds the options that run the same job again."""
    config, _ = finished_job(small_world, out)
    label(config)
    assert from_mapping(LabelConfig, yaml.safe_load((out / "label.yaml").read_text())) == config


def test_leftovers_of_killed_writers_are_swept(small_world: SmallWorld, out: Path) -> None:
    """A killed writer's temporary file is removed, and never taken for a table."""
    config, mine = finished_job(small_world, out)
    leftover = out / f".{min(mine)}.tmp-0123456789abcdef"
    leftover.write_bytes((out / min(mine)).read_bytes()[:100])
    summary = label(config)
    assert (summary.job.num_reused, summary.num_other_tables) == (len(mine), 0)
    assert not leftover.exists()
    assert {path.name for path in out.glob("*.parquet")} == mine


def test_a_late_commit_of_an_older_panel_does_no_harm(small_world: SmallWorld, out: Path) -> None:
    """A worker of an older panel that was believed dead may write a table late.

    `select` then refuses the mixture, and `label` removes the late table.
    """
    config, mine = finished_job(small_world, out)
    assert label(config).superseded_tables_removed == 0

    late = plan_of(small_world.shards, out, "old").tasks[3:4]
    commit(ShardPlan(late, late, frozenset(), str(out)))
    with pytest.raises(ConfigError, match=r"got 2 tables of shard .*emostream label"):
        load_predictions(str(out))
    assert label(config).superseded_tables_removed == 1
    assert {path.name for path in out.glob("*.parquet")} == mine

    load_predictions(str(out))


def test_a_commit_of_an_older_panel_during_the_job_is_swept(out: Path, tmp_path: Path) -> None:
    """A table that an older panel writes after the plan was made is removed too."""
    shards = corpus(tmp_path / "corpus", "a.tar")
    plan = plan_of(shards, out)
    commit(plan_of(shards, out, "old"))
    mine = commit(plan)
    assert remove_superseded(plan) == (1, 0)
    assert names(out) == mine


def test_another_corpus_of_the_same_names_is_refused(out: Path, tmp_path: Path) -> None:
    """A folder with tables of another corpus is refused, and nothing in it is removed."""
    theirs = commit(plan_of(corpus(tmp_path / "theirs", "a.tar"), out, "old"))
    plan = plan_of(corpus(tmp_path / "mine", "a.tar"), out)
    with pytest.raises(
        ConfigError, match=r"theirs/a.tar, which is called 'a.tar' like .*mine/a.tar"
    ):
        refuse_other_corpora(plan)

    mine = commit(plan)
    assert remove_superseded(plan) == (0, 1)
    assert names(out) == theirs | mine


def test_a_shard_under_another_name_is_superseded(out: Path, tmp_path: Path) -> None:
    """A shard that was labeled under another name, from a folder below, ends with one table."""
    shards = tmp_path / "corpus"
    shards.mkdir()
    corpus(shards / "part-7", "a.tar")
    commit(plan_of(shards / "part-7", out))
    plan = plan_of(shards / "**", out)

    assert plan.tasks[0].name == "part-7/a.tar"

    mine = commit(plan)
    assert remove_superseded(plan) == (1, 0)
    assert names(out) == mine

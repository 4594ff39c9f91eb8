"""Results of earlier tables are taken over, to the bit, where a model would see the same."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.labeling.config import PanelConfig
from actors.labeling.panel import Panel
from actors.labeling.shard import label_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardReader
from actors.reading.utterance import Utterance
from actors.work.errors import UnusableModelsError
from actors.work.task import ShardOutcome, ShardProgress, ShardTask
from shards.samples.content import SEEN_BY_LABELERS
from shards.samples.sample import Sample
from shards.tables.earlier import EarlierRows, index_results
from tests.shards.media.pieces import encode_video, gray
from tests.worlds.small import SmallWorld, make_sample, make_small_world, write_shard

NEEDS = Needs(audio=True, vision=True, seen=SEEN_BY_LABELERS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """A panel of three small labelers."""
    return make_small_world(tmp_path_factory.mktemp("world"), num_shards=1, per_shard=1)


def make_panel(world: SmallWorld) -> Panel:
    """The panel, not loaded."""
    return Panel(PanelConfig.load(str(world.panel)))


def run(
    panel: Panel, folder: Path, name: str, samples: list[Sample], *earlier: str
) -> ShardOutcome:
    """Write `samples` as a shard and label it; results are taken over from the tables `earlier`."""
    shard = folder / f"{name}.tar"
    write_shard(shard, samples)
    results = index_results([str(folder / f"{table}.parquet") for table in earlier])
    rows = None if results is None else EarlierRows(results)
    task = ShardTask(
        url=str(shard),
        name=shard.name,
        size=1,
        version="1",
        table_url=str(folder / f"{name}.parquet"),
        maker="d",
    )
    utterances = _utterances(ShardReader(MediaConfig(), NEEDS, earlier=rows), str(shard))
    return label_shard(task, panel, utterances, shard_error=None, progress=ShardProgress())


def _utterances(reader: ShardReader, url: str) -> Iterator[Utterance]:
    for item in reader.read(url):
        if isinstance(item, list):
            yield from item


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return list(pq.read_table(folder / f"{name}.parquet").to_pylist())


@pytest.fixture
def labeled(world: SmallWorld, tmp_path: Path) -> Path:
    """A folder with the labeled shard `old`: five utterances, the last with a broken sound."""
    panel = make_panel(world)
    panel.setup(num_threads=1)
    samples = [make_sample(number) for number in range(5)]
    samples[4] = dataclasses.replace(samples[4], audio=b"fLaC but not really")
    assert run(panel, tmp_path, "old", samples).num_carried_over == 0
    return tmp_path


def test_only_what_no_model_saw_may_change(world: SmallWorld, labeled: Path) -> None:
    """Samples with another speaker or place keep their results.

    Those with another transcript or language do not.
    """
    panel = make_panel(world)
    panel.setup_later(1, {"audio": {"checkpoint": "from the earlier table"}})
    samples = [make_sample(number) for number in (3, 2, 1, 0)]
    samples[0] = dataclasses.replace(samples[0], metadata={"speaker": "new", "take": 7})
    samples[1] = dataclasses.replace(samples[1], transcript="the rain")
    samples[2] = dataclasses.replace(samples[2], metadata={"language": "de"})

    outcome = run(panel, labeled, "new", samples, "old")

    assert outcome.num_carried_over == 2
    old = {row["key"]: row for row in rows(labeled, "old")}
    new = {row["key"]: row for row in rows(labeled, "new")}
    for key in ("utterance-00003", "utterance-00000"):
        for column in ("audio", "vision", "text", "transcript", "duration_seconds", "content"):
            assert new[key][column] == old[key][column]
    moved = new["utterance-00003"]
    assert (moved["speaker"], moved["emotion"], moved["shard"]) == ("new", None, "new.tar")
    assert moved["offset"] == 0
    assert new["utterance-00002"]["transcript"] == "the rain"
    assert new["utterance-00002"]["text"] != old["utterance-00002"]["text"]
    np.testing.assert_allclose(new["utterance-00001"]["audio"], old["utterance-00001"]["audio"])


def test_a_panel_with_nothing_to_see_is_not_loaded(world: SmallWorld, labeled: Path) -> None:
    """Where every result is taken over, the table is the one that labeling gives, to the byte."""
    panel = make_panel(world)
    panel.setup_later(1, {})
    outcome = run(panel, labeled, "new", [make_sample(number) for number in range(4)], "old")
    assert outcome.num_carried_over == 4
    assert panel.seconds == {}
    loaded = make_panel(world)
    loaded.setup(num_threads=1)
    run(loaded, labeled, "again", [make_sample(number) for number in range(4)])
    again = [row | {"shard": "new.tar"} for row in rows(labeled, "again")]
    assert rows(labeled, "new") == again


def test_samples_without_results_are_tried_again(world: SmallWorld, labeled: Path) -> None:
    """A sample that could not be read has nothing to take over; it costs no model."""
    panel = make_panel(world)
    panel.setup_later(1, {})
    broken = dataclasses.replace(make_sample(4), audio=b"fLaC but not really")
    assert run(panel, labeled, "new", [broken], "old").num_carried_over == 0
    assert rows(labeled, "new")[0]["error"] == rows(labeled, "old")[4]["error"]
    assert rows(labeled, "old")[4]["content"] is None
    assert panel.seconds == {}


def test_a_missing_modality_and_its_reason_are_carried_over(
    world: SmallWorld, labeled: Path
) -> None:
    """A silent video with words keeps its row, with the duration that its json states."""
    pictures = encode_video([gray(100)] * 3)
    silent = Sample(
        key="silent",
        video=pictures,
        video_format="mp4",
        transcript="rain",
        metadata={"duration_seconds": 0.5, "speaker": "ann"},
    )
    panel = make_panel(world)
    panel.setup(num_threads=1)
    run(panel, labeled, "first", [silent])
    (before,) = rows(labeled, "first")
    assert before["error"] is not None
    assert before["text"] is not None

    renamed = dataclasses.replace(silent, metadata=dict(silent.metadata) | {"speaker": "bob"})
    assert run(panel, labeled, "second", [renamed], "first").num_carried_over == 1
    (after,) = rows(labeled, "second")
    assert after == before | {"speaker": "bob", "shard": "second.tar", "size": after["size"]}

    longer = dataclasses.replace(silent, metadata={"duration_seconds": 0.75})
    assert run(panel, labeled, "third", [longer], "first").num_carried_over == 0
    assert rows(labeled, "third")[0]["duration_seconds"] == 0.75


def test_models_that_fail_late_say_what_they_are(
    world: SmallWorld, labeled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel that is needed in the middle of a job and cannot be loaded is an error of the job."""
    panel = make_panel(world)
    panel.setup_later(1, {})
    monkeypatch.setattr("actors.labeling.panel.locate", lambda _: labeled / "no-such-checkpoint")
    with pytest.raises(UnusableModelsError):
        run(panel, labeled, "new", [make_sample(77)], "old")


def test_one_result_serves_many_samples(world: SmallWorld, labeled: Path) -> None:
    """The same recording under two keys takes over one result twice."""
    panel = make_panel(world)
    panel.setup_later(1, {})
    samples = [dataclasses.replace(make_sample(1), key=key) for key in ("a", "b")]
    assert run(panel, labeled, "new", samples, "old").num_carried_over == 2
    assert [row["key"] for row in rows(labeled, "new")] == ["a", "b"]

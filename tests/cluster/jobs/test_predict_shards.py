"""`emostream predict --shards` makes each shard's table exactly once, whoever works on it."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.predicting.config import PredictConfig
from cluster.exit_status import ExitStatus
from cluster.jobs.predict_shards import PredictJob, predict_shards, run_predict_shards
from shards.config import ConfigError
from shards.speakers.files import write_speakers
from shards.speakers.pldc import Mode, calibrate_speakers
from shards.storage.parquet import METADATA_KEY
from tests.actors.predicting.test_predicting import (
    PREFIX,
    predict_alone,
    predicted,
    write_checkpoint,
)
from tests.cluster.jobs.test_predict import SCORES, read, speaker_table
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance

# Ray writes the class of an actor into the title of its process.
VICTIMS = ("ray::PredictorActor", "ray::ReaderActor", "ray::PredictorActor")


@pytest.fixture(scope="module")
def made(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of two speakers, one of whom is in two shards, recognized by two workers.

    The model hears a speaker's utterances in sets.
    """
    folder = tmp_path_factory.mktemp("made")
    (folder / "shards").mkdir()
    for shard in range(3):
        people = [2 * shard, 2 * shard + 1]
        samples = [make_utterance("test", speaker, n) for speaker in people for n in range(5)]
        samples += [make_utterance("test", 0, n) for n in (5, 6)] if shard == 1 else []
        write_shard(folder / "shards" / f"test-{shard:06d}.tar", samples)

    write_checkpoint(folder / "best", "prefix", **PREFIX)
    summary = predict_shards(options(folder, address=ray_address, num_workers=2))
    assert (summary.num_predicted, summary.job.num_utterances) == (3, 32)
    assert (summary.job.exit_status, summary.num_divided_speakers) == (ExitStatus.DONE, 1)
    assert summary.job.hours_of_audio == pytest.approx(32 * 0.3 / 3600, rel=0.2)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Lend the folder of `made` to a test that changes it, and put it back at the end.

    It keeps its path, because tables remember where their shards lie.
    """
    shutil.copytree(made, tmp_path / "kept")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables in this process, one after another, where what is tested begins behind them."""

    def run(job: PredictJob) -> None:
        job.outcomes = [predict_alone(job.arguments()[0], task) for task in job.plan.todo]

    monkeypatch.setattr(PredictJob, "run", run)


def options(world: Path, **changes: Any) -> PredictConfig:
    values = {
        "checkpoint": str(world / "best"),
        "shards": f"{world}/shards/*.tar",
        "out": f"{world}/answers",
        "address": "nowhere:1",
        "num_workers": 1,
        "set_size": 4,
    }
    return PredictConfig(**(values | changes))


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def scores(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.stack([table[name].to_numpy() for name in SCORES], axis=1)


def test_a_job_answers_as_one_process_does(made: Path) -> None:
    """Two workers give what one loop in this process gives."""
    for number in range(3):
        (path,) = (made / "answers").glob(f"test-{number:06d}-*.parquet")
        found, shard = pq.read_table(path), made / "shards" / f"test-{number:06d}.tar"
        rows = predicted(str(made / "best"), str(shard), made / "x.parquet", set_size=4)

        assert found.column_names == [
            *["key", "shard", "speaker", "start", "end", "label", *SCORES, "error"]
        ]
        assert set(found["shard"].to_pylist()) == {shard.name}
        for name in ("key", "speaker", "start", "end", "label", "error"):
            assert found[name].to_pylist() == [row[name] for row in rows]
        np.testing.assert_allclose(
            scores(found), [[row[name] for name in SCORES] for row in rows], atol=1e-6
        )


def test_only_the_lost_table_is_made_again(
    world: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost table alone is made again, to the same bytes; then no cluster is needed."""
    made = tables(world / "answers")
    next((world / "answers").glob("test-000001-*.parquet")).unlink()
    # As many workers as made the others: how many threads one has decides how sums are rounded.
    after = predict_shards(options(world, address=ray_address, num_workers=2))
    assert (after.num_predicted, after.job.num_reused) == (1, 2)
    assert tables(world / "answers") == made

    def refuse(*_: object) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("cluster.nodes.session.ray_session", refuse)
    again = predict_shards(options(world))
    assert (again.num_predicted, again.job.num_reused, again.job.num_utterances) == (0, 3, 32)


@pytest.mark.usefixtures("in_process")
def test_other_options_replace_the_tables(world: Path) -> None:
    """Windows give tables of other names, with more rows than utterances; the old ones go."""
    made = tables(world / "answers")
    summary = predict_shards(options(world, window=0.1))
    assert (summary.num_predicted, summary.superseded_tables_removed) == (3, 3)
    assert (summary.job.num_utterances, summary.num_other_tables) == (32, 0)

    found = tables(world / "answers")
    assert not made.keys() & found.keys()
    assert sum(pq.read_metadata(world / "answers" / name).num_rows for name in found) > 64


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_tables_are_joined_to_a_file(kind: str, world: Path) -> None:
    """A file has the rows of all tables, in the order of the shards; the tables lie beside it."""
    folder = (world / "answers").rename(world / "joined-by-shard")
    out = world / f"joined.{kind}"
    assert predict_shards(options(world, out=str(out))).num_predicted == 0

    expected = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    found = read(out)
    assert found.column_names == expected.column_names
    assert found["key"].to_pylist() == expected["key"].to_pylist()
    np.testing.assert_allclose(scores(found), scores(expected), atol=1e-6)

    if kind == "parquet":
        footer = json.loads(pq.read_schema(out).metadata[METADATA_KEY])
        assert footer["options"]["checkpoint"] == str(world / "best")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("mode", ["mu", "sigma", "both"])
def test_a_speaker_in_two_shards_is_calibrated_once(mode: Mode, world: Path) -> None:
    """Calibration, added up over tables, equals that of all rows in memory."""
    table = speaker_table(str(world / "best"))
    write_speakers(str(world / "speakers.parquet"), table)
    values = {"speakers": f"{world}/speakers.parquet", "pldc": mode, "neighbors": 1}
    predict_shards(options(world, out=f"{world}/moved.parquet", **values))

    found = pq.read_table(world / "moved.parquet")
    paths = sorted((world / "moved-by-shard").glob("*.parquet"))
    before = pa.concat_tables([pq.read_table(path) for path in paths])
    assert found.column_names == before.column_names[:-1]

    # The table of speakers has the classes in another order than the model.
    mine = [f"score_{name}" for name in table.dimensions]
    order = [mine.index(name) for name in SCORES]
    expected = calibrate_speakers(
        table.take(np.array([0, 1])),
        before["speaker"].to_numpy(),
        np.stack(before["features"].to_pylist()).astype(np.float32),
        np.stack([before[name].to_numpy() for name in mine], axis=1),
        neighbors=1,
        mode=mode,
    )[:, order]
    np.testing.assert_allclose(scores(found), expected, atol=1e-6)
    assert not np.allclose(scores(found), scores(before), atol=1e-3)
    assert found["label"].to_pylist() == [
        SCORES[place].removeprefix("score_") for place in expected.argmax(axis=1)
    ]


@pytest.mark.usefixtures("in_process")
def test_what_cannot_be_used_is_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample without a speaker is a row with its reason, a shard cut off is named: status 3."""
    shard = world / "shards" / "test-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    nameless = dataclasses.replace(make_utterance("test", 9, 0), metadata={})
    write_shard(world / "shards" / "z.tar", [make_utterance("test", 8, 0), nameless])

    status = run_predict_shards(options(world, out=f"{world}/out.csv"))
    assert status == ExitStatus.DAMAGED
    printed = capsys.readouterr().out
    assert "without a prediction: 1 x no_speaker" in printed
    assert "damaged shard test-000000.tar" in printed
    rows = {row["key"]: row for row in read(world / "out.csv").to_pylist()}
    assert rows[nameless.key]["error"].startswith("no_speaker")
    assert not rows["test-8-000"]["error"]


def test_a_folder_of_another_corpus_is_refused(world: Path) -> None:
    """Tables of shards that are called alike but lie elsewhere are not mixed with others."""
    shutil.copytree(world / "shards", world / "elsewhere")
    (world / "elsewhere" / "test-000000.tar").touch()

    with pytest.raises(ConfigError, match="give each corpus a folder of its own"):
        predict_shards(options(world, shards=f"{world}/elsewhere/*.tar"))


def test_a_checkpoint_is_looked_at_before_a_cluster(world: Path) -> None:
    """A calibration that a model of faces cannot have, and no model, are refused at once."""
    write_checkpoint(world / "faces", modality="face")
    calibration = {"pldc": "mu", "speakers": "speakers.parquet", "out": f"{world}/out.csv"}
    with pytest.raises(ConfigError, match="for sound only"):
        predict_shards(options(world, checkpoint=str(world / "faces"), **calibration))
    with pytest.raises(ConfigError, match="no folder has this name"):
        predict_shards(options(world, checkpoint=str(world / "nothing")))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_workers_leave_no_trace(world: Path, ray_address: str) -> None:
    """Workers and readers killed at work leave the very tables of an undisturbed run."""
    for number in range(3, 24):
        samples = [make_utterance("test", number, n) for n in range(24)]
        write_shard(world / "shards" / f"test-{number:06d}.tar", samples)
    predict_shards(options(world, address=ray_address, out=f"{world}/expected"))

    num_dead = rounds = 0
    # Why a loop: a fast machine finishes a run before all victims are killed.
    while num_dead < len(VICTIMS):
        rounds += 1
        out = f"{world}/disturbed-{rounds}"
        with kill_now_and_then(*VICTIMS[num_dead:]) as dead:
            summary = predict_shards(options(world, address=ray_address, out=out, max_attempts=50))

        num_dead += len(dead)
        assert (summary.job.num_utterances, summary.job.exit_status) == (536, ExitStatus.DONE)
        assert tables(Path(out)) == tables(world / "expected")


@contextlib.contextmanager
def kill_now_and_then(*titles: str) -> Iterator[list[int]]:
    """Kill a process of each title, one after another, and list the ids of the dead."""
    dead: list[int] = []
    stop = threading.Event()

    def strike() -> None:
        for title in titles:
            # A worker is given time to begin; then it is somewhere in the middle of a shard.
            while not stop.wait(0.3):
                found = [pid for pid, name in below_this_process() if name.startswith(title)]
                if not found or found[0] in dead or stop.wait(0.5):
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found[0], signal.SIGKILL)
                    dead.append(found[0])
                    break

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield dead
    finally:
        stop.set()
        thread.join()


def below_this_process() -> Iterator[tuple[int, str]]:
    """Ids and titles of this process' descendants."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process.pid, (process.cmdline() or [""])[0]

"""The loader: the planned order at any world size and from any position, and tensors that are what the shards hold."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.errors import BadShard
from shards.loading.batch_plan import SpeakerSetPlan, SpeakerSetView, UtterancePlan, UtteranceView, evaluation_batches
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import Batch, BatchReader, TrainingLoader, read_once
from shards.loading.targets import TargetConfig, no_targets, read_targets, resolve_classes
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.samples.sample import Sample
from tests.shards.media.pieces import encode_video, grey
from tests.worlds.small import make_sample, write_shard
from tests.worlds.training import write_training_world

NUM_SAMPLES = 23


def packed(number: int) -> Sample:
    sample = make_sample(number, seconds=0.2 + 0.05 * (number % 7))
    probs = np.roll([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], number % 7).tolist()
    labels = {"label": EMOTIONS[number % 4], "label_probs": probs, "split": "test" if number % 5 == 4 else "train"}
    object.__setattr__(
        sample,
        "metadata",
        {**sample.metadata, **labels, "duration_seconds": 0.2 + 0.05 * (number % 7), "arousal": number / 10},
    )
    return sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed")
    samples = [packed(number) for number in range(NUM_SAMPLES)]
    write_shard(path / "a.tar", samples[:12])
    write_shard(path / "b.tar", samples[12:])
    return path


@pytest.fixture(scope="module")
def index(folder: Path) -> CorpusIndex:
    return read_index(str(folder))


def reader_of(index: CorpusIndex, config: TargetConfig | None = None) -> BatchReader:
    config = config or TargetConfig()
    return BatchReader(index, read_targets(index, config, resolve_classes(index, config)), "audio")


def loader_of(index: CorpusIndex, *, sets: bool = False, **options: int) -> TrainingLoader:
    plan = (
        SpeakerSetPlan(index.rows_by_speaker(), SpeakerSetView(num_sets=2, set_size=3), seed=5)
        if sets
        else UtterancePlan(index.durations, UtteranceView(batch_seconds=1.0, pool_batches=2), seed=5)
    )
    return TrainingLoader(reader_of(index), plan, identity="this", **options)


def rows(batches: Iterator[Batch], number: int) -> list[tuple[int, list[int]]]:
    return [(batch.number, batch.rows.tolist()) for batch in itertools.islice(batches, number)]


def test_the_index_is_what_the_shards_say(index: CorpusIndex, folder: Path) -> None:
    """Keys in tar order, splits, labels and any json field."""
    assert index.table["key"].to_pylist() == [f"utterance-{number:05d}" for number in range(NUM_SAMPLES)]
    assert index.speakers == [f"speaker-{number}" for number in range(5)]
    assert len(index.split("test")) == 4
    assert index.table["label"].to_pylist() == [EMOTIONS[number % 4] for number in range(NUM_SAMPLES)]
    np.testing.assert_allclose(index.values("arousal"), np.arange(NUM_SAMPLES) / 10)
    assert np.isnan(index.values("demographics.age")).all()
    assert index.texts("speaker")[:2] == ["speaker-0", "speaker-1"]
    assert sorted(np.concatenate(list(index.rows_by_speaker().values())).tolist()) == list(range(NUM_SAMPLES))
    assert read_index(f"{folder}/*.tar").digest == index.digest
    with pytest.raises(ConfigError, match="the shards hold test, train"):
        index.split("dev")


def test_a_batch_holds_what_the_samples_hold(index: CorpusIndex) -> None:
    """Sound as decoded, zero behind it; targets, speakers and sets row by row."""
    for batch in itertools.islice(loader_of(index), 8):
        for place, row in enumerate(batch.rows.tolist()):
            sound = decode_audio(packed(row).audio or b"")
            assert batch.lengths[place] == len(sound)
            np.testing.assert_array_equal(batch.inputs[place, : len(sound)].numpy(), sound)
            assert not batch.inputs[place, len(sound) :].any()
            assert batch.labels[place] == row % 4
            assert batch.speakers[place] == f"speaker-{row % 5}"
            torch.testing.assert_close(batch.probs[place], torch.eye(4)[row % 4])


def test_soft_targets_are_restricted_and_renormalised(index: CorpusIndex) -> None:
    """`label_probs` over the classes in use sum to 1; values come from the json; strangers are unknown."""
    soft = read_targets(index, TargetConfig(kind="label_probs"), ("neutral", "anger"))
    np.testing.assert_allclose(soft.probs[0], [0.8, 0.2], rtol=1e-6)
    hard = read_targets(index, TargetConfig(), ("neutral", "anger"))
    assert hard.labels[:5].tolist() == [0, 1, -1, -1, 0]
    assert np.isnan(hard.probs[2]).all()
    values = read_targets(index, TargetConfig(kind="values", values=("arousal",)), ("arousal",))
    np.testing.assert_allclose(values.values[:3, 0], [0.0, 0.1, 0.2], rtol=1e-6)
    assert values.known.all()


def test_classes_are_those_that_can_be_learnt(index: CorpusIndex) -> None:
    """In the project's order, all or those asked for; one that no utterance has is refused, but in distributions."""
    present = tuple(EMOTIONS[:4])
    assert resolve_classes(index, TargetConfig()) == present
    assert resolve_classes(index, TargetConfig(classes=("fear", "neutral"))) == tuple(
        name for name in present if name in ("fear", "neutral")
    )
    wanted = ("neutral", "surprise")
    with pytest.raises(ConfigError, match=r"data.target.classes: no training utterance is surprise; `label` in their"):
        resolve_classes(index, TargetConfig(classes=wanted))
    assert resolve_classes(index, TargetConfig(kind="label_probs", classes=wanted)) == wanted
    with pytest.raises(ConfigError, match=r"`emotion` in the training utterances' json has [01] classes"):
        resolve_classes(index.take(np.asarray([0])), TargetConfig(kind="emotion"))


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize(("world_size", "per_step"), [(1, 2), (2, 2), (2, 4), (3, 6)])
def test_ranks_together_see_the_one_global_order(
    index: CorpusIndex, sets: bool, world_size: int, per_step: int
) -> None:
    """Whatever the world size, every batch of the order goes to exactly one rank, over epochs."""
    num_batches = 5 * per_step
    expected = rows(iter(loader_of(index, sets=sets, batches_per_step=per_step)), num_batches)
    assert [number for number, _ in expected] == list(range(num_batches))
    found = []
    for rank in range(world_size):
        loader = loader_of(index, sets=sets, batches_per_step=per_step, rank=rank, world_size=world_size)
        found += rows(iter(loader), num_batches // world_size)
    assert sorted(found) == expected


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_resumed_loader_goes_on_at_the_very_next_batch(index: CorpusIndex, sets: bool, steps: int) -> None:
    """From any step, also at another world size."""
    whole = rows(iter(loader_of(index, sets=sets, batches_per_step=2)), 24)
    first = loader_of(index, sets=sets, batches_per_step=2, rank=1, world_size=2)
    rows(iter(first), steps)
    state = first.state_dict()
    assert state["next_batch"] == 2 * steps
    resumed = loader_of(index, sets=sets, batches_per_step=2)
    resumed.load_state_dict(state)
    assert rows(iter(resumed), 6) == whole[2 * steps : 2 * steps + 6]


def test_reading_in_other_processes_changes_nothing(index: CorpusIndex) -> None:
    """Worker processes give the same batches in the same order."""
    alone = [batch.inputs for batch in itertools.islice(loader_of(index), 6)]
    beside = [batch.inputs for batch in itertools.islice(loader_of(index, num_workers=2), 6)]
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


def test_one_pass_gives_ranks_equally_many_batches(index: CorpusIndex) -> None:
    """Surplus batches repeat the last one and are numbered -1; the rest is every utterance once."""
    batches = evaluation_batches(index.rows_by_speaker(), 4)
    parts = [list(read_once(reader_of(index), batches, rank=rank, world_size=4)) for rank in range(4)]
    assert len({len(part) for part in parts}) == 1
    seen = [row for part in parts for batch in part if batch.number >= 0 for row in batch.rows.tolist()]
    assert sorted(seen) == list(range(NUM_SAMPLES))


def test_other_data_is_not_resumed(index: CorpusIndex) -> None:
    """A position means nothing in another order."""
    loader = loader_of(index)
    with pytest.raises(ConfigError, match="not those the run was started with"):
        loader.load_state_dict({**loader.state_dict(), "identity": "another"})
    with pytest.raises(ConfigError, match="batches_per_step: got 3 for 2 workers"):
        loader_of(index, batches_per_step=3, world_size=2)


def test_a_second_epoch_is_read_from_memory(tmp_path: Path) -> None:
    """What the cache has room for is decoded once; the rest is read again, and misses what has gone."""
    write_shard(tmp_path / "a.tar", [packed(number) for number in range(4)])
    index = read_index(str(tmp_path))
    batches = evaluation_batches(index.rows_by_speaker(), 4)
    roomy = BatchReader(index, no_targets(index), "audio", cache_bytes=10**6)
    size = next(read_once(roomy, batches[:1])).inputs[0].nbytes
    narrow = BatchReader(index, no_targets(index), "audio", cache_bytes=size)
    first = [list(read_once(reader, batches)) for reader in (roomy, narrow)]
    (tmp_path / "a.tar").write_bytes(b"")
    for before, after in zip(first[0], read_once(roomy, batches), strict=True):
        assert torch.equal(before.inputs, after.inputs)
    assert len(list(read_once(narrow, batches[:1]))) == 1
    with pytest.raises(BadShard):
        list(read_once(narrow, batches))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, num_workers: int) -> None:
    """Training does not skip: what was packed must be readable. The error is the same one from a worker process."""
    broken = packed(0)
    object.__setattr__(broken, "audio", b"fLaC" + bytes(50))
    write_shard(tmp_path / "a.tar", [broken, packed(1)])
    index = read_index(str(tmp_path))
    with pytest.raises(BadShard, match=r"a\.tar: sample 'utterance-00000'") as raised:
        list(read_once(reader_of(index), evaluation_batches(index.rows_by_speaker(), 4), num_workers=num_workers))
    assert "Traceback" not in str(raised.value)
    assert raised.value.code == "corrupt_audio"
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(BadShard, match="damaged_shard"):
        read_index(str(tmp_path))


CLIP = ClipFormat(num_frames=4, side_pixels=16, shortest_edge_pixels=16)


def filmed(number: int) -> Sample:
    sample = packed(number)
    shades = [grey(20 * number + 10 * frame, width=24, height=16) for frame in range(4)]
    object.__setattr__(sample, "video", encode_video(shades, frames_per_second=4))
    object.__setattr__(sample, "video_format", "mp4")
    return sample


def test_video_comes_as_clips(tmp_path: Path) -> None:
    """[N, T, 3, side, side], standardised; the same from memory, and from a worker process."""
    write_shard(tmp_path / "a.tar", [filmed(number) for number in range(6)])
    index = read_index(str(tmp_path))
    reader = BatchReader(index, no_targets(index), "video", cache_bytes=10**6, clip=CLIP)
    batches = evaluation_batches(index.rows_by_speaker(), 4)
    first = list(read_once(reader, batches))
    for batch in first:
        assert batch.inputs.shape == (len(batch), 4, 3, 16, 16)
        assert batch.inputs.dtype == torch.float32
        assert batch.lengths.tolist() == [4] * len(batch)
        shades = (20 * batch.rows[:, None] + 10 * torch.arange(4)) / 255
        expected = (shades[..., None] - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)
        torch.testing.assert_close(batch.inputs.mean(dim=(3, 4)), expected, rtol=0, atol=0.06)
    (beside,) = read_once(BatchReader(index, no_targets(index), "video", clip=CLIP), batches[:1], num_workers=1)
    (tmp_path / "a.tar").write_bytes(b"")
    (again, *_) = read_once(reader, batches)
    assert torch.equal(beside.inputs, first[0].inputs)
    assert torch.equal(again.inputs, first[0].inputs)


def test_a_video_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Damaged or missing: the sample and the reason, as for sound."""
    broken = filmed(0)
    object.__setattr__(broken, "video", (broken.video or b"")[:-300])
    write_shard(tmp_path / "a.tar", [broken])
    write_shard(tmp_path / "b.tar", [packed(1)])
    index = read_index(str(tmp_path))
    reader = BatchReader(index, no_targets(index), "video", clip=CLIP)
    batches = evaluation_batches(index.rows_by_speaker(), 1)
    with pytest.raises(BadShard, match=r"corrupt_video: .*a\.tar: sample 'utterance-00000'"):
        list(read_once(reader, batches[:1]))
    with pytest.raises(BadShard, match=r"no_video: .*b\.tar: sample 'utterance-00001'"):
        list(read_once(reader, batches[1:]))
    with pytest.raises(ConfigError, match="clip: got None for video"):
        BatchReader(index, no_targets(index), "video")


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("packed"))).split("train")


def test_memory_holds_what_was_said_and_no_more(utterances: CorpusIndex) -> None:
    """Two epochs with room for a third of the corpus, and no more shards open than may be."""
    whole = BatchReader(utterances, no_targets(utterances), "audio", cache_bytes=1 << 40)
    plan = UtterancePlan(utterances.durations, UtteranceView(), seed=0)
    for planned in plan.epoch(0):
        whole[0, planned]
    room = sum(media.nbytes for media in whole._decoded.values()) // 3
    reader = BatchReader(utterances, no_targets(utterances), "audio", cache_bytes=room)
    for planned in plan.epoch(0) + plan.epoch(1):
        reader[0, planned]
    kept = sum(media.nbytes for media in reader._decoded.values())
    assert 0.5 * room < kept <= room


def test_padding_and_epochs_are_counted(utterances: CorpusIndex) -> None:
    """The share of what is handed out that is padding, and how much of the corpus has been handed out, by hand."""
    plan = UtterancePlan(utterances.durations, UtteranceView(batch_seconds=2.0), seed=0)
    loader = TrainingLoader(BatchReader(utterances, no_targets(utterances), "audio"), plan, identity="this")
    batches = iter(loader)
    number = len(plan.epoch(0)) + 1
    given = [next(batches) for _ in range(number)]
    padding = sum(int((batch.inputs.shape[1] - batch.lengths).sum()) for batch in given)
    assert loader.padding_share == pytest.approx(padding / sum(batch.inputs.numel() for batch in given))
    assert loader.epochs == pytest.approx(1 + 1 / len(plan.epoch(0)))

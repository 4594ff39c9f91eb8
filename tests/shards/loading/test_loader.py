"""The loader gives the planned order at any world size and from any position.

Its tensors are what the shards hold.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.errors import BadShard
from shards.loading.batch_plan import (
    PlannedBatch,
    SpeakerSetPlan,
    SpeakerSetView,
    UtterancePlan,
    UtteranceView,
    evaluation_batches,
)
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import Batch, BatchReader, TrainingLoader, read_once
from shards.loading.targets import TargetConfig, read_targets, resolve_classes
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.samples.sample import Sample
from tests.shards.media.pieces import encode_video, gray
from tests.worlds.small import make_sample, write_shard
from tests.worlds.training import heard, write_training_world

NUM_SAMPLES = 23


def packed(number: int) -> Sample:
    sample = make_sample(number, seconds=0.2 + 0.05 * (number % 7))
    probs = np.roll([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], number % 7).tolist()
    labels = {
        "label": EMOTIONS[number % 4],
        "label_probs": probs,
        "split": "test" if number % 5 == 4 else "train",
    }

    # Why object.__setattr__: a sample is frozen.
    object.__setattr__(
        sample,
        "metadata",
        {
            **sample.metadata,
            **labels,
            "duration_seconds": 0.2 + 0.05 * (number % 7),
            "arousal": number / 10,
        },
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
    return BatchReader(
        index, ["sound"], read_targets(index, config, resolve_classes(index, config)).by_name
    )


def loader_of(index: CorpusIndex, *, sets: bool = False, **options: int) -> TrainingLoader:
    plan = (
        SpeakerSetPlan(index.rows_by_speaker(), SpeakerSetView(num_sets=2, set_size=3), seed=5)
        if sets
        else UtterancePlan(
            index.durations, UtteranceView(batch_seconds=1.0, pool_batches=2), seed=5
        )
    )
    return TrainingLoader(reader_of(index), plan, identity="this", **options)


def rows(batches: Iterator[Batch], number: int) -> list[tuple[int, list[int]]]:
    return [(batch.number, batch.rows.tolist()) for batch in itertools.islice(batches, number)]


def test_the_index_is_what_the_shards_say(index: CorpusIndex, folder: Path) -> None:
    """The index has the keys in tar order, the splits, the labels and any field of the json."""
    assert index.table["key"].to_pylist() == [
        f"utterance-{number:05d}" for number in range(NUM_SAMPLES)
    ]
    assert index.speakers == [f"speaker-{number}" for number in range(5)]
    assert len(index.split("test")) == 4
    assert index.table["label"].to_pylist() == [
        EMOTIONS[number % 4] for number in range(NUM_SAMPLES)
    ]

    np.testing.assert_allclose(index.values("arousal"), np.arange(NUM_SAMPLES) / 10)
    assert np.isnan(index.values("demographics.age")).all()
    assert index.texts("speaker")[:2] == ["speaker-0", "speaker-1"]
    assert sorted(np.concatenate(list(index.rows_by_speaker().values())).tolist()) == list(
        range(NUM_SAMPLES)
    )

    assert read_index(f"{folder}/*.tar").digest == index.digest

    with pytest.raises(ConfigError, match="the shards hold test, train"):
        index.split("dev")


def test_a_batch_holds_what_the_samples_hold(index: CorpusIndex) -> None:
    """Each row has its sound, zeros after it, and its targets, speaker and set."""
    for batch in itertools.islice(loader_of(index), 8):
        for place, row in enumerate(batch.rows.tolist()):
            sound = decode_audio(packed(row).audio or b"")
            values, lengths = heard(batch)
            assert lengths[place] == len(sound)
            np.testing.assert_array_equal(values[place, : len(sound)].numpy(), sound)
            assert not values[place, len(sound) :].any()
            assert batch.speakers[place] == f"speaker-{row % 5}"
            torch.testing.assert_close(batch.targets["classes"][place], torch.eye(4)[row % 4])


def test_soft_targets_are_restricted_and_renormalized(index: CorpusIndex) -> None:
    """`label_probs` over the classes in use sum to 1, and values come from the json.

    A label outside the classes is unknown.
    """
    soft = read_targets(index, TargetConfig(kind="label_probs"), ("neutral", "anger"))
    np.testing.assert_allclose(soft.array[0], [0.8, 0.2], rtol=1e-6)

    hard = read_targets(index, TargetConfig(), ("neutral", "anger"))
    assert hard.labels[:5].tolist() == [0, 1, -1, -1, 0]
    assert np.isnan(hard.array[2]).all()

    values = read_targets(index, TargetConfig(kind="values", values=("arousal",)), ("arousal",))
    np.testing.assert_allclose(values.array[:3, 0], [0.0, 0.1, 0.2], rtol=1e-6)
    assert values.known.all()


def test_classes_are_those_that_can_be_learned(index: CorpusIndex) -> None:
    """Classes are in the project's order: all that occur, or those asked for.

    A class that no utterance has is refused, unless distributions are learned.
    """
    present = tuple(EMOTIONS[:4])
    assert resolve_classes(index, TargetConfig()) == present
    assert resolve_classes(index, TargetConfig(classes=("fear", "neutral"))) == tuple(
        name for name in present if name in ("fear", "neutral")
    )

    wanted = ("neutral", "surprise")
    with pytest.raises(
        ConfigError,
        match=r"data.target.classes: no training utterance is surprise; `label` in their",
    ):
        resolve_classes(index, TargetConfig(classes=wanted))
    assert resolve_classes(index, TargetConfig(kind="label_probs", classes=wanted)) == wanted

    with pytest.raises(
        ConfigError, match=r"`emotion` in the training utterances' json has [01] classes"
    ):
        resolve_classes(index.take(np.asarray([0])), TargetConfig(kind="emotion"))


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize(("world_size", "per_step"), [(1, 2), (2, 2), (2, 4), (3, 6)])
def test_ranks_together_see_the_one_global_order(
    index: CorpusIndex, sets: bool, world_size: int, per_step: int
) -> None:
    """Over epochs, every batch of the order goes to exactly one rank, at any world size."""
    num_batches = 5 * per_step
    expected = rows(iter(loader_of(index, sets=sets, batches_per_step=per_step)), num_batches)

    assert [number for number, _ in expected] == list(range(num_batches))

    found = []
    for rank in range(world_size):
        loader = loader_of(
            index, sets=sets, batches_per_step=per_step, rank=rank, world_size=world_size
        )
        found += rows(iter(loader), num_batches // world_size)

    assert sorted(found) == expected


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_resumed_loader_goes_on_at_the_very_next_batch(
    index: CorpusIndex, sets: bool, steps: int
) -> None:
    """A loader goes on from any step, also at another world size."""
    whole = rows(iter(loader_of(index, sets=sets, batches_per_step=2)), 24)
    first = loader_of(index, sets=sets, batches_per_step=2, rank=1, world_size=2)
    rows(iter(first), steps)
    state = first.state_dict()
    assert state["next_batch"] == 2 * steps

    resumed = loader_of(index, sets=sets, batches_per_step=2)
    resumed.load_state_dict(state)
    assert rows(iter(resumed), 6) == whole[2 * steps : 2 * steps + 6]


def test_reading_in_other_processes_changes_nothing(index: CorpusIndex) -> None:
    """Reading processes give the same batches in the same order."""
    alone = [heard(batch)[0] for batch in itertools.islice(loader_of(index), 6)]
    beside = [heard(batch)[0] for batch in itertools.islice(loader_of(index, num_workers=2), 6)]
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


def test_one_pass_gives_ranks_equally_many_batches(index: CorpusIndex) -> None:
    """Surplus batches repeat the last one, numbered -1; the others hold every utterance once."""
    batches = evaluation_batches(index.rows_by_speaker(), 4)
    parts = [
        list(read_once(reader_of(index), batches, rank=rank, world_size=4)) for rank in range(4)
    ]

    assert len({len(part) for part in parts}) == 1

    seen = [
        row for part in parts for batch in part if batch.number >= 0 for row in batch.rows.tolist()
    ]
    assert sorted(seen) == list(range(NUM_SAMPLES))


def test_other_data_is_not_resumed(index: CorpusIndex) -> None:
    """A position in another order is refused."""
    loader = loader_of(index)
    with pytest.raises(ConfigError, match="not those the run was started with"):
        loader.load_state_dict({**loader.state_dict(), "identity": "another"})
    with pytest.raises(ConfigError, match="batches_per_step: got 3 for 2 workers"):
        loader_of(index, batches_per_step=3, world_size=2)


def test_a_second_epoch_is_read_from_memory(tmp_path: Path) -> None:
    """Utterances that fit into the cache are decoded once.

    The others are read again, and fail if their shard is gone.
    """
    write_shard(tmp_path / "a.tar", [packed(number) for number in range(4)])
    index = read_index(str(tmp_path))

    batches = evaluation_batches(index.rows_by_speaker(), 4)
    roomy = BatchReader(index, ["sound"], cache_bytes=10**6)
    size = heard(next(read_once(roomy, batches[:1])))[0][0].nbytes
    narrow = BatchReader(index, ["sound"], cache_bytes=size)

    first = [list(read_once(reader, batches)) for reader in (roomy, narrow)]

    (tmp_path / "a.tar").write_bytes(b"")
    for before, after in zip(first[0], read_once(roomy, batches), strict=True):
        assert torch.equal(heard(before)[0], heard(after)[0])
    # Why it still works: this one batch is what the narrow reader has kept.
    assert len(list(read_once(narrow, batches[:1]))) == 1
    with pytest.raises(BadShard):
        list(read_once(narrow, batches))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, num_workers: int) -> None:
    """Training does not skip a sample, as everything that was packed must be readable.

    The error from a reading process is the same one.
    """
    broken = packed(0)
    object.__setattr__(broken, "audio", b"fLaC" + bytes(50))
    write_shard(tmp_path / "a.tar", [broken, packed(1)])
    index = read_index(str(tmp_path))

    with pytest.raises(BadShard, match=r"a\.tar: sample 'utterance-00000'") as raised:
        list(
            read_once(
                reader_of(index),
                evaluation_batches(index.rows_by_speaker(), 4),
                num_workers=num_workers,
            )
        )
    assert "Traceback" not in str(raised.value)
    assert raised.value.code == "corrupt_audio"

    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(BadShard, match="damaged_shard"):
        read_index(str(tmp_path))


CLIP = ClipFormat(num_frames=4, side_pixels=16, shortest_edge_pixels=16)


def filmed(number: int) -> Sample:
    sample = packed(number)
    shades = [gray(20 * number + 10 * frame, width=24, height=16) for frame in range(4)]
    object.__setattr__(sample, "video", encode_video(shades, frames_per_second=4))
    object.__setattr__(sample, "video_format", "mp4")
    return sample


def test_video_comes_as_clips(tmp_path: Path) -> None:
    """Clips are [N, T, 3, side, side] and standardized, also from memory and a reading process."""
    write_shard(tmp_path / "a.tar", [filmed(number) for number in range(6)])
    index = read_index(str(tmp_path))
    reader = BatchReader(index, ["clip"], cache_bytes=10**6, clip=CLIP)
    batches = evaluation_batches(index.rows_by_speaker(), 4)

    first = list(read_once(reader, batches))
    for batch in first:
        values, lengths = heard(batch)
        assert values.shape == (len(batch), 4, 3, 16, 16)
        assert values.dtype == torch.float32
        assert lengths.tolist() == [4] * len(batch)
        shades = (20 * batch.rows[:, None] + 10 * torch.arange(4)) / 255
        expected = (shades[..., None] - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)
        torch.testing.assert_close(values.mean(dim=(3, 4)), expected, rtol=0, atol=0.06)

    (beside,) = read_once(BatchReader(index, ["clip"], clip=CLIP), batches[:1], num_workers=1)
    (tmp_path / "a.tar").write_bytes(b"")
    (again, *_) = read_once(reader, batches)

    assert torch.equal(heard(beside)[0], heard(first[0])[0])
    assert torch.equal(heard(again)[0], heard(first[0])[0])


def test_a_video_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """An error names the sample whose video is damaged or missing, and the reason."""
    broken = filmed(0)
    object.__setattr__(broken, "video", (broken.video or b"")[:-300])
    write_shard(tmp_path / "a.tar", [broken])
    write_shard(tmp_path / "b.tar", [packed(1)])

    index = read_index(str(tmp_path))
    reader = BatchReader(index, ["clip"], clip=CLIP)
    batches = evaluation_batches(index.rows_by_speaker(), 1)

    with pytest.raises(BadShard, match=r"corrupt_video: .*a\.tar: sample 'utterance-00000'"):
        list(read_once(reader, batches[:1]))
    with pytest.raises(BadShard, match=r"no_video: .*b\.tar: sample 'utterance-00001'"):
        list(read_once(reader, batches[1:]))

    with pytest.raises(ConfigError, match="clip: got None for the inputs clip"):
        BatchReader(index, ["clip"])


def test_sound_and_face_come_together(tmp_path: Path) -> None:
    """Each input has its own lengths, 0 where an utterance lacks it; targets have their names."""
    both, only_sound, only_face = (make_sample(number) for number in range(3))
    object.__setattr__(only_sound, "face_features", None)
    object.__setattr__(only_face, "audio", None)
    object.__setattr__(only_face, "audio_format", None)
    for place, sample in enumerate((both, only_sound, only_face)):
        write_shard(tmp_path / f"{place}.tar", [sample])
    index = read_index(str(tmp_path))
    arousal = np.asarray([[0.5], [np.nan], [0.25]], dtype=np.float32)
    reader = BatchReader(index, ["sound", "face"], {"values": arousal})

    batch = reader[0, PlannedBatch(np.asarray([2, 0, 1]), np.arange(3))]
    sound, face = batch.inputs["sound"], batch.inputs["face"]
    assert sound.lengths.tolist() == [0, 9600, 9600]
    assert face.lengths.tolist() == [6, 6, 0]
    assert face.values.shape == (3, 6, 8)
    assert not sound.values[0].any()
    np.testing.assert_array_equal(face.values[1].numpy(), both.face_features)
    torch.testing.assert_close(
        batch.targets["values"], torch.tensor([[0.25], [0.5], [torch.nan]]), equal_nan=True
    )

    alone = reader[0, PlannedBatch(np.asarray([1]), np.arange(1))].inputs["face"]
    assert (alone.lengths.tolist(), alone.values.shape) == ([0], (1, 0, 8))
    with pytest.raises(BadShard, match=r"no_face_features: .*1\.tar: sample 'utterance-00001'"):
        BatchReader(index, ["face"])[0, PlannedBatch(np.asarray([1]), np.arange(1))]


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("packed"))).split("train")


def kept_bytes(reader: BatchReader) -> int:
    """How many bytes a reader holds in memory."""
    return sum(
        array.nbytes
        for found in reader._decoded.values()
        for array in found.values()
        if array is not None
    )


def test_memory_holds_what_was_said_and_no_more(utterances: CorpusIndex) -> None:
    """With room for a third of the corpus, two epochs keep no more than that in memory."""
    whole = BatchReader(utterances, ["sound"], cache_bytes=1 << 40)
    plan = UtterancePlan(utterances.durations, UtteranceView(), seed=0)
    for planned in plan.epoch(0):
        whole[0, planned]
    room = kept_bytes(whole) // 3
    reader = BatchReader(utterances, ["sound"], cache_bytes=room)
    for planned in plan.epoch(0) + plan.epoch(1):
        reader[0, planned]
    assert 0.5 * room < kept_bytes(reader) <= room


def test_padding_and_epochs_are_counted(utterances: CorpusIndex) -> None:
    """The share of padding and the number of epochs are those counted by hand.

    Both are of what has been handed out.
    """
    plan = UtterancePlan(utterances.durations, UtteranceView(batch_seconds=2.0), seed=0)
    loader = TrainingLoader(BatchReader(utterances, ["sound"]), plan, identity="this")

    batches = iter(loader)
    number = len(plan.epoch(0)) + 1
    given = [next(batches) for _ in range(number)]

    padding = sum(int((values.shape[1] - lengths).sum()) for values, lengths in map(heard, given))

    assert loader.padding_share == pytest.approx(
        padding / sum(heard(batch)[0].numel() for batch in given)
    )
    assert loader.epochs == pytest.approx(1 + 1 / len(plan.epoch(0)))

"""Which utterance goes into which shard: nothing is lost, and speakers stay together.

Sizes are met, and names follow the content.
"""

from itertools import groupby
from random import Random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.packing.plan import PACKED_KEY, PLAN_COLUMNS, PlannedShard, plan_shards, stem_of
from shards.selection.rule import SPLITS

VERSIONS = {"a.tar": "1", "b.tar": "1"}
# (speaker, key, size in KiB); a speaker's split follows from its number, its shard from the key.
utterances = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(1, 40)), min_size=1, max_size=60
)


def table(rows: list[tuple[int, int, int]]) -> pa.Table:
    return pa.table(
        {
            "key": [f"k{key}" for _, key, _ in rows],
            "shard": ["b.tar" if number % 3 else "a.tar" for number in range(len(rows))],
            "offset": np.arange(len(rows)) * 2**20,
            "size": [size * 1024 for *_, size in rows],
            "speaker": [f"s{speaker}" for speaker, *_ in rows],
            "duration_seconds": [float(size) for *_, size in rows],
            "label": ["anger"] * len(rows),
            "probs": pa.array([[0.5, 0.5, 0, 0, 0, 0, 0]] * len(rows), pa.list_(pa.float32(), 7)),
            "split": [SPLITS[speaker % 3] for speaker, *_ in rows],
        }
    )


def places(planned: list[PlannedShard]) -> list[tuple[str, int]]:
    return [(row["shard"], row["offset"]) for shard in planned for row in shard.samples.to_pylist()]


@settings(max_examples=60, deadline=None)
@given(utterances, st.integers(1, 100))
def test_plans(rows: list[tuple[int, int, int]], target_kib: int) -> None:
    """Every utterance is planned once.

    Shards have one split and fit the target; only speakers larger than the target are divided.
    """
    selection = table(rows)
    planned = plan_shards(selection, VERSIONS, target_kib * 1024)

    expected = {(row["shard"], row["offset"]) for row in selection.to_pylist()}
    assert len(places(planned)) == len(rows)
    assert set(places(planned)) == expected
    assert len({shard.name for shard in planned}) == len(planned)

    homes: dict[str, list[int]] = {}
    for number, shard in enumerate(planned):
        samples = shard.samples.to_pylist()
        assert {row["split"] for row in samples} == {shard.stem.partition("-")[0]}
        assert sum(row["size"] for row in samples) <= target_kib * 1024 or len(samples) == 1
        runs = [speaker for speaker, _ in groupby(row["speaker"] for row in samples)]
        assert len(runs) == len(set(runs))
        for speaker in runs:
            homes.setdefault(speaker, []).append(number)
        assert len({row[PACKED_KEY] for row in samples}) == len(samples)

    totals = {
        f"s{number}": sum(size for speaker, _, size in rows if speaker == number)
        for number in range(7)
    }

    assert all(
        len(shards) == 1 or totals[speaker] > target_kib for speaker, shards in homes.items()
    )


@settings(max_examples=30, deadline=None)
@given(utterances, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[tuple[int, int, int]], random: Random) -> None:
    """The rows of a selection in another order give the same plan."""
    selection = table(rows)
    order = random.sample(range(len(rows)), len(rows))
    straight, shuffled = (
        plan_shards(part, VERSIONS, 50_000) for part in (selection, selection.take(order))
    )
    assert [shard.name for shard in straight] == [shard.name for shard in shuffled]
    assert places(straight) == places(shuffled)


def test_names_follow_the_content() -> None:
    """The name changes with a label, a source version or a size, and otherwise stays."""
    selection = table([(0, key, 10) for key in range(6)])
    name = plan_shards(selection, VERSIONS, 10**6)[0].name
    assert plan_shards(selection, VERSIONS, 10**9)[0].name == name

    relabeled = selection.set_column(PLAN_COLUMNS.index("label"), "label", [["fear"] * 6])
    assert plan_shards(relabeled, VERSIONS, 10**6)[0].name != name
    assert plan_shards(selection, {**VERSIONS, "a.tar": "2"}, 10**6)[0].name != name
    assert plan_shards(selection, VERSIONS, 30_000)[0].name != name
    assert stem_of(name) == name.removesuffix(".tar")


def test_an_added_speaker_leaves_the_shards_before_it_alone() -> None:
    """A selection that grows at the end keeps the names of all but its last shard.

    So it also keeps their files.
    """
    rows = [(speaker, key, 30) for speaker in (0, 3) for key in range(4)]
    before = plan_shards(table(rows), VERSIONS, 130 * 1024)
    after = plan_shards(table([*rows, (6, 0, 30)]), VERSIONS, 130 * 1024)
    assert [shard.name for shard in after[:2]] == [shard.name for shard in before]
    assert len(after) == 3


def test_keys_that_two_shards_share_are_told_apart() -> None:
    """A key that two labeled shards share gets a suffix in both.

    A key of one shard only stays as it is.
    """
    [shard] = plan_shards(table([(0, 1, 1), (0, 1, 1), (0, 2, 1)]), VERSIONS, 10**6)
    keys = shard.samples[PACKED_KEY].to_pylist()
    assert "k2" in keys
    assert len({key for key in keys if key.startswith("k1-")}) == 2


def test_long_shared_keys_still_fit() -> None:
    """A shared key at the limit of 255 bytes is shortened rather than refused."""
    selection = table([(0, 1, 1), (0, 1, 1)])
    selection = selection.set_column(0, "key", [["ü" * 127] * 2])
    [shard] = plan_shards(selection, VERSIONS, 10**6)
    keys = shard.samples[PACKED_KEY].to_pylist()
    assert len(set(keys)) == 2
    assert all(len(key.encode()) <= 255 for key in keys)


def test_names_of_other_files_are_not_ours() -> None:
    """Only names that a plan can make are recognized, so only such files are ever removed."""
    assert stem_of("train-000001-0123456789ab-face-mp3.tar") == "train-000001-0123456789ab"
    for name in (
        "train-000001.tar",
        "corpus-000001-0123456789ab.tar",
        "train-000001-0123456789ab.tar.tmp",
        "a.tar",
    ):
        assert stem_of(name) is None

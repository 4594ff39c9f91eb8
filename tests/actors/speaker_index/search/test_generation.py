"""Generations against a dictionary and plain cosines: the most alike speakers are found."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation, Neighbors
from actors.speaker_index.search.vector_index import build_index, exact_search, unit
from actors.speaker_index.storage.writes import Deletion, Write, apply_writes
from shards.speakers.table import SpeakerTable
from tests.actors.speaker_index.speaker_world import make_table, make_upsert, make_vectors

NAMES = st.sampled_from([f"s{number:03d}" for number in range(12)])
WRITES = st.one_of(
    st.builds(
        make_upsert, st.lists(NAMES, min_size=1, max_size=4, unique=True), st.integers(10, 15)
    ),
    st.builds(
        lambda names: Deletion(tuple(names)), st.lists(NAMES, min_size=1, max_size=4, unique=True)
    ),
)


def start(table: SpeakerTable, kind: str = "flat") -> Generation:
    index = build_index(unit(table.vectors), IndexConfig(kind=kind))  # type: ignore[arg-type]
    return Generation.start(1, table, index)


def everyone(generation: Generation) -> dict[str, NDArray[np.float32]]:
    table = generation.table()
    return dict(zip(table.speakers, table.vectors, strict=True))


def expected(there: dict[str, NDArray[np.float32]], write: Write) -> dict[str, NDArray[np.float32]]:
    left = {name: vector for name, vector in there.items() if name not in write.leaving}
    coming = write.coming
    return (
        left if coming is None else left | dict(zip(coming.speakers, coming.vectors, strict=True))
    )


def names_of(generation: Generation, numbers: NDArray[np.int64]) -> list[str]:
    places = [generation.locate(number) for number in numbers.tolist() if number >= 0]
    return [table.speakers[row] for table, row in places]


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITES, max_size=12), st.integers(1, 15), st.lists(st.integers(1, 12), max_size=3))
def test_writes_and_searches_agree_with_a_dictionary(
    writes: list[Write], k: int, cuts: list[int]
) -> None:
    """Writes in any groups give the dictionary's speakers, and neighbors by plain cosines."""
    there = everyone(start(make_table(8)))
    grouped = single = start(make_table(8))

    for write in writes:
        single, counts = apply_writes(single, [write])
        assert counts == [sum(name in there for name in write.leaving)]
        there = expected(there, write)

    edges = sorted({0, len(writes), *(cut for cut in cuts if cut < len(writes))})
    for begin, end in pairwise(edges):
        grouped, _ = apply_writes(grouped, writes[begin:end])

    queries = unit(make_vectors(3, seed=99))
    for generation in (single, grouped):
        found = everyone(generation)
        assert found.keys() == there.keys()
        assert all((found[name] == there[name]).all() for name in there)
        assert len(generation) == len(there)
        assert generation.number == 1 + len(writes)

        numbers, similarities = generation.search(queries, k)
        names = list(there)
        cosines = (
            queries @ unit(np.stack([there[name] for name in names])).T
            if names
            else np.empty((3, 0))
        )

        for row in range(3):
            best = np.sort(cosines[row])[::-1][:k]
            found_names = names_of(generation, numbers[row])
            assert len(set(found_names)) == len(found_names) == len(best)
            np.testing.assert_allclose(
                cosines[row][[names.index(name) for name in found_names]], best, atol=1e-6
            )
            np.testing.assert_allclose(similarities[row, : len(best)], best, atol=1e-6)
            assert (numbers[row, len(best) :] == -1).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8"])
def test_only_allowed_speakers_are_found(kind: str) -> None:
    """With filters and deletions only allowed speakers are found; exact indexes find the best."""
    table = make_table(300)
    generation, _ = apply_writes(
        start(table, kind), [Deletion(("s001", "s003")), make_upsert(["s005", "new"])]
    )
    excluded = [
        number for name in ("s007", "s009") if (number := generation.find(name)) is not None
    ]
    allowed = generation.allowed(excluded, {"sex": "female"})
    queries = unit(make_vectors(4, seed=3))
    numbers, similarities = generation.search(queries, 20, allowed)

    there = generation.table()
    good = [
        row
        for row, (name, metadata) in enumerate(zip(there.speakers, there.metadata, strict=True))
        if metadata["sex"] == "female" and name not in ("s007", "s009")
    ]
    cosines = queries @ unit(there.vectors[good]).T

    for row in range(4):
        found = names_of(generation, numbers[row])
        assert len(found) == 20
        assert set(found) <= {there.speakers[place] for place in good}
        if kind == "flat":
            np.testing.assert_allclose(
                similarities[row], np.sort(cosines[row])[::-1][:20], atol=1e-6
            )


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8"])
@pytest.mark.parametrize("k", [100, 400, 500])
def test_an_approximate_index_finds_as_many_as_there_are(kind: str, k: int) -> None:
    """Where the lists that are probed hold fewer than k speakers, the rest is found too, once."""
    table = make_table(400)
    crowds = np.repeat(unit(make_vectors(20, seed=8)), 20, axis=0)
    generation = start(replace(table, vectors=crowds + 0.01 * table.vectors), kind)
    changed, _ = apply_writes(generation, [Deletion(("s399",)), make_upsert(["new"])])

    queries = unit(crowds[::40])
    for one in (generation, changed):
        numbers, similarities = one.search(queries, k)
        assert (numbers >= 0).sum(axis=1).tolist() == [min(k, 400)] * len(queries)
        assert all(len(np.unique(row[row >= 0])) == min(k, 400) for row in numbers)
        assert (np.diff(similarities[:, : min(k, 400)]) <= 0).all()


def test_a_filtered_search_looks_at_those_allowed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of later writes too only the allowed ones are compared, and no more found than asked for."""
    searched: list[tuple[int, int]] = []

    def search(stored: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> Neighbors:
        searched.append((len(stored), k))
        return exact_search(stored, queries, k)

    generation, _ = apply_writes(
        start(make_table(4)), [make_upsert([f"n{number:02d}" for number in range(30)])]
    )
    monkeypatch.setattr("actors.speaker_index.search.generation.exact_search", search)

    wanted = [f"n{number:02d}" for number in range(0, 30, 3)]
    allowed = np.zeros(34, dtype=bool)
    allowed[[number for number in map(generation.find, wanted) if number is not None]] = True

    numbers, similarities = generation.search(unit(make_vectors(2)), 3, allowed)
    assert searched == [(10, 3)]

    there = everyone(generation)
    cosines = unit(make_vectors(2)) @ unit(np.stack([there[name] for name in wanted])).T
    np.testing.assert_allclose(similarities, -np.sort(-cosines, axis=1)[:, :3], atol=1e-6)
    assert all(set(names_of(generation, row)) <= set(wanted) for row in numbers)


def test_a_rare_entry_is_found_among_many() -> None:
    """One speaker among 3,000 has the metadata asked for, and is found."""
    table = make_table(3000)
    table.metadata[1234]["language"] = "fi"  # type: ignore[index]
    generation = start(table)
    numbers, _ = generation.search(
        unit(make_vectors(2, seed=5)), 3, generation.allowed([], {"language": "fi"})
    )
    assert numbers.tolist() == [[1234, -1, -1]] * 2


def test_a_generation_does_not_change() -> None:
    """Writes make new generations, and what a reader holds stays as it was."""
    before = start(make_table(20))
    held = before.search(unit(make_vectors(2)), 5)

    apply_writes(before, [make_upsert(["s001", "new"]), Deletion(("s002",))])
    again = before.search(unit(make_vectors(2)), 5)
    assert [part.tolist() for part in held] == [part.tolist() for part in again]

    assert before.find("new") is None
    assert before.find("s002") == 2


@pytest.mark.parametrize("number", [1, 2])
def test_who_has_left_the_indexed_part_leaves_nobody_there(number: int) -> None:
    """When all indexed speakers are replaced, deleted or filtered out, none of them is found."""
    names = [f"s{row:03d}" for row in range(number)]
    queries = unit(make_vectors(2, seed=5))

    replaced, _ = apply_writes(start(make_table(number)), [make_upsert(names)])
    assert sorted(names_of(replaced, replaced.search(queries[:1], 3)[0][0])) == names

    deleted, _ = apply_writes(start(make_table(number)), [Deletion(tuple(names))])
    filtered = start(make_table(number))
    for numbers, _ in (
        deleted.search(queries, 2),
        filtered.search(queries, 2, np.zeros(number, dtype=bool)),
    ):
        assert numbers.tolist() == [[-1, -1]] * 2


def test_an_empty_index_finds_nobody() -> None:
    """An index whose speakers were all deleted has no neighbors and no error, also when rebuilt."""
    generation, _ = apply_writes(start(make_table(2)), [Deletion(("s000", "s001"))])
    for empty in (generation, start(generation.table())):
        assert len(empty) == 0
        assert empty.search(unit(make_vectors(1)), 3)[0].tolist() == [[-1, -1, -1]]


def test_the_most_alike_may_all_have_left() -> None:
    """The next five are found when the forty nearest, more than are looked at first, are gone."""
    angles = np.linspace(0, 1, 100)
    vectors = np.zeros((100, 8), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)

    table = replace(make_table(100), vectors=vectors)
    generation = start(table).changed(
        2, table.speakers[:40], table.take(np.empty(0, dtype=np.int64))
    )

    numbers, _ = generation.search(unit(vectors[:1]), 5)
    assert numbers.tolist() == [[40, 41, 42, 43, 44]]


def test_who_lacks_one_label_does_not_speak_for_both() -> None:
    """Labeled speakers are those with statistics of every dimension asked for."""
    counts = np.asarray([[5, 5], [5, 0], [0, 5], [0, 0]])
    generation = start(replace(make_table(4), label_count=counts))
    assert generation.labeled([0, 1]).tolist() == [True, False, False, False]
    assert generation.labeled([0]).tolist() == [True, True, False, False]

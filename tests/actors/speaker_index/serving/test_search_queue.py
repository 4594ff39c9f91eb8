"""The queue's own rules; what it finds is tested through the service."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.speaker_index.errors import OverloadedError
from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.generation import Generation
from actors.speaker_index.search.vector_index import build_index, unit
from actors.speaker_index.serving.search_queue import Search, SearchQueue
from tests.actors.speaker_index.speaker_world import make_table, make_vectors


def test_a_filtered_search_whose_time_is_over_is_not_begun() -> None:
    """Such a search is refused, and `allowed` is not even asked which speakers may be found."""
    table = make_table(5)
    generation = Generation.start(1, table, build_index(unit(table.vectors), IndexConfig()))
    asked = []

    def allowed(_: Generation) -> NDArray[np.bool_]:
        asked.append(1)
        return np.ones(5, dtype=bool)

    async def ask(queue: SearchQueue, deadline: float) -> int:
        packed = make_vectors(1).tobytes()
        return await queue.answer(
            Search(
                packed=packed,
                num_vectors=1,
                k=2,
                finish=lambda *_: 7,
                allowed=allowed,
                deadline=deadline,
            )
        )

    queue = SearchQueue(lambda: generation, num_threads=1)
    with pytest.raises(TimeoutError):
        asyncio.run(ask(queue, 0.0))
    assert not asked
    assert asyncio.run(ask(queue, float("inf"))) == 7
    queue.close()


@pytest.mark.parametrize(
    ("deadline", "room", "error"), [(0.0, 2, TimeoutError), (float("inf"), 1, OverloadedError)]
)
def test_a_plain_search_is_refused_when_it_is_late_or_one_too_many(
    monkeypatch: pytest.MonkeyPatch, deadline: float, room: int, error: type[Exception]
) -> None:
    """A late search and one too many are refused, and neither counts as waiting afterwards."""
    monkeypatch.setattr("actors.speaker_index.serving.search_queue.MAX_WAITING_VECTORS", room)
    table = make_table(5)
    generation = Generation.start(1, table, build_index(unit(table.vectors), IndexConfig()))

    async def ask(queue: SearchQueue, deadline: float, number: int) -> int:
        packed = make_vectors(number).tobytes()
        return await queue.answer(
            Search(packed=packed, num_vectors=number, k=2, finish=lambda *_: 7, deadline=deadline)
        )

    queue = SearchQueue(lambda: generation, num_threads=1)
    with pytest.raises(error):
        asyncio.run(ask(queue, deadline, 2))
    assert queue.num_waiting == 0
    queue.close()

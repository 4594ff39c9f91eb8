"""Answers ahead: in order, never more than may be held, and none left behind."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.speaker_index.serving.streaming import AnswersAhead

MAX_NUMBER, MAX_WEIGHT = 4, 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_answers_keep_their_order_and_their_bounds(pieces: Sequence[tuple[int, int, int]]) -> None:
    """Answers keep them whatever they weigh and whoever is slow; a heavy one is held alone."""
    held: list[tuple[int, ...]] = []
    assert asyncio.run(_passed_on(pieces, held)) == [
        bytes([number]) for number in range(len(pieces))
    ]
    for weights in held:
        assert len(weights) <= MAX_NUMBER
        assert sum(weights) <= MAX_WEIGHT or len(weights) == 1


async def _passed_on(
    pieces: Sequence[tuple[int, int, int]], held: list[tuple[int, ...]]
) -> list[bytes]:
    """The answers in the order they are taken; `held` gets the weights that are held at each."""
    ahead = AnswersAhead(max_number=MAX_NUMBER, max_weight=MAX_WEIGHT)
    weights: list[int] = []

    async def answer(number: int, steps: int) -> bytes:
        for _ in range(steps):
            await asyncio.sleep(0)
        return bytes([number])

    async def begin() -> None:
        for number, (weight, steps, _) in enumerate(pieces):
            await ahead.make_room(weight)
            weights.append(weight)
            held.append(tuple(weights))
            ahead.begin(answer(number, steps), weight)
        ahead.end()

    taken = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(begin())
        while (one := await ahead.first()) is not None:
            for _ in range(pieces[len(taken)][2]):
                await asyncio.sleep(0)
            taken.append(one)
            ahead.taken()
            weights.pop(0)
    return taken


def test_cancelling_ends_every_answer() -> None:
    """Answers that are done, failed or unending are ended, and so is a wait for room."""

    async def fail() -> bytes:
        raise ValueError

    async def never() -> bytes:
        return await asyncio.get_running_loop().create_future()

    async def run() -> int:
        ahead = AnswersAhead(max_number=2, max_weight=10)
        for answer in (fail(), never()):
            ahead.begin(answer, 1)

        waiting = asyncio.create_task(ahead.make_room(1))
        await asyncio.sleep(0)

        ahead.cancel()
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1

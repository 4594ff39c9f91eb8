"""Answers of a stream that are worked on before those in front of them are taken: in order, and not
too many.

A queue of tasks was left out: it bounds their number and not what they hold, and its end can only
be put into it when there is room.
"""

import asyncio
import collections
from collections.abc import Coroutine
from typing import Any


class AnswersAhead:
    """To be used from one event loop, by one task that begins answers and one that takes them."""

    def __init__(self, *, max_number: int, max_weight: int) -> None:
        self._max_number, self._max_weight = max_number, max_weight
        self._begun: collections.deque[tuple[asyncio.Task[bytes], int]] = collections.deque()
        self._weight = 0
        self._is_over = False
        self._has_more, self._has_fewer = asyncio.Event(), asyncio.Event()

    async def make_room(self, weight: int) -> None:
        """Wait until an answer of this weight may be begun; where there is no other, any may."""
        while self._begun and (
            len(self._begun) >= self._max_number or self._weight + weight > self._max_weight
        ):
            self._has_fewer.clear()
            await self._has_fewer.wait()

    def begin(self, answer: Coroutine[Any, Any, bytes], weight: int) -> None:
        """Work on the next answer."""
        self._begun.append((asyncio.create_task(answer), weight))
        self._weight += weight
        self._has_more.set()

    def end(self) -> None:
        """No more will be begun."""
        self._is_over = True
        self._has_more.set()

    async def first(self) -> bytes | None:
        """The answer in front, which counts until it is `taken`; None when all are. Raises what
        went wrong with it.
        """
        while not self._begun and not self._is_over:
            self._has_more.clear()
            await self._has_more.wait()
        return await self._begun[0][0] if self._begun else None

    def taken(self) -> None:
        """Let go of the answer in front."""
        _, weight = self._begun.popleft()
        self._weight -= weight
        self._has_fewer.set()

    def cancel(self) -> None:
        """Let go of them all."""
        while self._begun:
            task, _ = self._begun.popleft()
            if not task.cancel() and not task.cancelled():
                task.exception()  # seen: asyncio need not tell of it

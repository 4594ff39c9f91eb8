"""Answers of a stream that are worked on before the client has taken the earlier ones.

The answers stay in order, and their number and size are bounded. A queue of tasks was left out: it
bounds the number of tasks and not the size of what they hold, and its end can only be put into it
when there is room.
"""

import asyncio
import collections
from collections.abc import Coroutine
from typing import Any


class AnswersAhead:
    """Answers that are worked on ahead, in order.

    For use from one event loop, by one task that begins answers and one task that takes them. The
    weight of an answer is a measure of its size.
    """

    def __init__(self, *, max_number: int, max_weight: int) -> None:
        self._max_number, self._max_weight = max_number, max_weight
        self._begun: collections.deque[tuple[asyncio.Task[bytes], int]] = collections.deque()
        self._weight = 0
        self._is_over = False
        self._has_more, self._has_fewer = asyncio.Event(), asyncio.Event()

    async def make_room(self, weight: int) -> None:
        """Wait until an answer of this weight may be begun.

        When no other answer is there, an answer of any weight may be begun, because one that is too
        heavy would wait for ever.
        """
        while self._begun and (
            len(self._begun) >= self._max_number or self._weight + weight > self._max_weight
        ):
            self._has_fewer.clear()
            await self._has_fewer.wait()

    def begin(self, answer: Coroutine[Any, Any, bytes], weight: int) -> None:
        """Work on the next answer; `make_room` has been waited for."""
        self._begun.append((asyncio.create_task(answer), weight))
        self._weight += weight
        self._has_more.set()

    def end(self) -> None:
        """Say that no more answers will be begun."""
        self._is_over = True
        self._has_more.set()

    async def first(self) -> bytes | None:
        """The answer in front, or None when all answers have been taken.

        The answer counts toward the limits until `taken` is called. Raises the error that the
        answer ended with.
        """
        while not self._begun and not self._is_over:
            self._has_more.clear()
            await self._has_more.wait()

        return await self._begun[0][0] if self._begun else None

    def taken(self) -> None:
        """Let go of the answer in front, which makes room for others."""
        _, weight = self._begun.popleft()
        self._weight -= weight
        self._has_fewer.set()

    def cancel(self) -> None:
        """Cancel all answers that are worked on, and let go of those that are done."""
        while self._begun:
            task, _ = self._begun.popleft()
            # asyncio logs an exception that nobody has looked at; nobody needs these.
            if not task.cancel() and not task.cancelled():
                task.exception()

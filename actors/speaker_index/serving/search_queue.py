"""Searches of many clients, answered together.

Sixteen queries at once cost FAISS a third a query of what they cost one by one, 256 a seventh.
While one batch is being searched on a worker thread, what arrives waits, and is the next batch. It
is begun when between two looks, 0.3 ms apart, nothing more has come, when one has waited for 10 ms,
or when it is full; a request alone, after a batch of one, is searched at once. To begin as soon as
the last batch was over lost: on one core batches stayed at two or three, and the server at half its
rate. Requests that may find only some speakers are searched by themselves, on another thread.
"""

import asyncio
import collections
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.errors import OverloadedError
from actors.speaker_index.search.generation import Generation, Neighbors
from actors.speaker_index.search.kernels import load_faiss
from actors.speaker_index.search.vector_index import unit
from actors.speaker_index.wire import have_direction, no_direction, unpack_vectors

BATCH_VECTORS = 512
LOOK_SECONDS, LONGEST_SECONDS = 0.0003, 0.01
MAX_WAITING_VECTORS = 1 << 16

Answer = TypeVar("Answer")
# Which numbers of a generation may be found (None: all), and which of those found are to be left
# out.
Allowed = Callable[[Generation], "NDArray[np.bool_] | None"]


def all_allowed(_: Generation) -> None:
    """Everybody may be found."""
    return


@dataclass(slots=True, eq=False, kw_only=True)
class Search(Generic[Answer]):
    """P packed vectors for k neighbors each; `finish` makes the answer, on the worker thread."""

    packed: bytes
    num_vectors: int
    k: int
    finish: Callable[[Generation, Neighbors], Answer]
    allowed: Allowed = all_allowed
    deadline: float = float("inf")  # time.monotonic()
    done: "asyncio.Future[Answer]" = field(init=False)


class SearchQueue:
    """Answers on worker threads; to be used from one event loop."""

    def __init__(self, current: Callable[[], Generation], *, num_threads: int) -> None:
        self._current = current
        self._plain: collections.deque[Search[Any]] = collections.deque()
        self._num_waiting = 0
        self._is_searching = False  # or a look at what waits is due
        self._last_batch = 0
        self._num_seen = 0  # waiting at the last look
        self._first_arrival = 0.0
        self._workers = ThreadPoolExecutor(
            1, "search", initializer=_use_threads, initargs=(num_threads,)
        )
        self._filtered = ThreadPoolExecutor(
            1, "filtered-search", initializer=_use_threads, initargs=(1,)
        )

    @property
    def num_waiting(self) -> int:
        """Vectors that wait to be searched."""
        return self._num_waiting

    async def answer(self, search: Search[Answer]) -> Answer:
        """What `finish` makes of the neighbors. Raises OverloadedError when too much is waiting."""
        if self._num_waiting + search.num_vectors > MAX_WAITING_VECTORS:
            raise OverloadedError(
                f"{self._num_waiting} vectors are waiting to be searched; try again later"
            )
        loop = asyncio.get_running_loop()
        self._num_waiting += search.num_vectors
        if search.allowed is not all_allowed:
            try:
                return await loop.run_in_executor(
                    self._filtered, _search_alone, self._current, search
                )
            finally:
                self._num_waiting -= search.num_vectors
        search.done = loop.create_future()
        if not self._plain:
            self._first_arrival = time.monotonic()
        self._plain.append(search)
        if not self._is_searching:
            self._is_searching = True
            self._look(loop)
        return await search.done

    def close(self) -> None:
        """Let go of the threads, once they have finished."""
        self._workers.shutdown()
        self._filtered.shutdown()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Search what waits, if it is time; else look again soon."""
        if self._plain and not self._is_time():
            loop.call_later(LOOK_SECONDS, self._look, loop)
            return
        batch = self._take_batch()
        self._is_searching = bool(batch)
        if batch:
            self._last_batch, self._num_seen = len(batch), 0
            future = self._workers.submit(_search_together, self._current, batch)
            future.add_done_callback(
                lambda done: loop.call_soon_threadsafe(self._finish, loop, batch, done)
            )

    def _is_time(self) -> bool:
        seen, self._num_seen = self._num_seen, len(self._plain)
        if self._num_waiting >= BATCH_VECTORS or (len(self._plain) == 1 and self._last_batch <= 1):
            return True
        return seen == len(self._plain) or time.monotonic() - self._first_arrival >= LONGEST_SECONDS

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[Search[Any]], done: Any) -> None:
        error = done.exception()
        answers = [None] * len(batch) if error is not None else done.result()
        for search, answer in zip(batch, answers, strict=True):
            if search.done.done():
                continue  # its client has gone
            problem = answer if isinstance(answer, Exception) else error
            if problem is not None:
                search.done.set_exception(problem)
            else:
                search.done.set_result(answer)
        loop.call_soon(self._look, loop)

    def _take_batch(self) -> list[Search[Any]]:
        batch: list[Search[Any]] = []
        num_vectors, now = 0, time.monotonic()
        while self._plain and (
            not batch or num_vectors + self._plain[0].num_vectors <= BATCH_VECTORS
        ):
            search = self._plain.popleft()
            self._num_waiting -= search.num_vectors
            if search.done.done():
                continue
            if search.deadline < now:
                search.done.set_exception(TimeoutError())
                continue
            batch.append(search)
            num_vectors += search.num_vectors
        return batch


def _search_together(current: Callable[[], Generation], batch: list[Search[Any]]) -> list[Any]:
    """The answer to each of the batch, or what is wrong with it."""
    generation = current()
    vectors = unpack_vectors(
        b"".join([search.packed for search in batch]), generation.base.table.vectors.shape[1]
    )
    usable = have_direction(vectors)
    if not usable.all():
        vectors = np.where(usable[:, None], vectors, np.float32(1.0))
    numbers, similarities = generation.search(unit(vectors), max(search.k for search in batch))
    answers: list[Any] = []
    first = 0
    for search in batch:
        mine = slice(first, first + search.num_vectors)
        first = mine.stop
        if usable[mine].all():
            found = numbers[mine, : search.k], similarities[mine, : search.k]
            answers.append(_finished(search, generation, found))
        else:
            answers.append(no_direction(int(np.argmin(usable[mine]))))
    return answers


def _finished(search: Search[Any], generation: Generation, found: Neighbors) -> Any:
    try:
        return search.finish(generation, found)
    except Exception as error:  # noqa: BLE001 (raised where the search was asked for)
        return error


def _search_alone(current: Callable[[], Generation], search: Search[Answer]) -> Answer:
    if search.deadline < time.monotonic():
        raise TimeoutError  # others were ahead for too long
    generation = current()
    vectors = unpack_vectors(search.packed, generation.base.table.vectors.shape[1])
    usable = have_direction(vectors)
    if not usable.all():
        raise no_direction(int(np.argmin(usable)))
    found = generation.search(unit(vectors), search.k, search.allowed(generation))
    return search.finish(generation, found)


def _use_threads(number: int) -> None:
    load_faiss().omp_set_num_threads(number)  # of this thread

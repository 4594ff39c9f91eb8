"""Searches of many clients, answered together.

Sixteen queries searched at once cost FAISS a third for each query of what they cost one by one, and
256 queries a seventh. While a worker thread searches one batch, the searches that arrive wait, and
are the next batch.

The queue is looked at every 0.3 ms. The next batch is begun when no search has come since the last
look, when a search has waited for 10 ms, or when the batch is full. A search that waits alone,
after a batch of one, is begun at once. The alternative, to begin as soon as the last batch was
over, lost: on one core batches stayed at two or three searches, and the server at half its rate.

Filtered searches, which may find only some speakers, are searched one by one on another thread.
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
# A function that gives a mask of the numbers of a generation that may be found, or None for all.
Allowed = Callable[[Generation], "NDArray[np.bool_] | None"]


def all_allowed(_: Generation) -> None:
    """Let every speaker be found."""
    return


@dataclass(slots=True, eq=False, kw_only=True)
class Search(Generic[Answer]):
    """P packed vectors, each to be answered with k neighbors.

    `finish` makes the answer from the neighbors, on the worker thread. `deadline` is a time of
    `time.monotonic()`.
    """

    packed: bytes
    num_vectors: int
    k: int
    finish: Callable[[Generation, Neighbors], Answer]
    allowed: Allowed = all_allowed
    deadline: float = float("inf")
    done: "asyncio.Future[Answer]" = field(init=False)


class SearchQueue:
    """Answers searches on worker threads; for use from one event loop.

    The state of the queue is changed on the event loop only, so that it needs no lock.
    """

    def __init__(self, current: Callable[[], Generation], *, num_threads: int) -> None:
        self._current = current
        self._plain: collections.deque[Search[Any]] = collections.deque()

        self._num_waiting = 0
        # True also while the next look at the queue is due.
        self._is_searching = False
        self._last_batch = 0
        # Searches that waited at the last look.
        self._num_seen = 0
        self._first_arrival = 0.0

        self._workers = ThreadPoolExecutor(
            1, "search", initializer=_use_threads, initargs=(num_threads,)
        )
        self._filtered = ThreadPoolExecutor(
            1, "filtered-search", initializer=_use_threads, initargs=(1,)
        )

    @property
    def num_waiting(self) -> int:
        """Number of vectors that wait to be searched."""
        return self._num_waiting

    async def answer(self, search: Search[Answer]) -> Answer:
        """What `finish` makes of the neighbors.

        Raises OverloadedError when too many vectors are waiting, and TimeoutError when the search
        was not begun before its deadline.
        """
        if self._num_waiting + search.num_vectors > MAX_WAITING_VECTORS:
            raise OverloadedError(
                f"{self._num_waiting} vectors are waiting to be searched, and these would be too "
                "many; try again later"
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
        """Wait until the worker threads have finished, and end them."""
        self._workers.shutdown()
        self._filtered.shutdown()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Search the batch that waits, if it is time; otherwise look again soon."""
        if self._plain and not self._is_time():
            loop.call_later(LOOK_SECONDS, self._look, loop)
            return

        batch = self._take_batch()
        self._is_searching = bool(batch)

        if batch:
            self._last_batch, self._num_seen = len(batch), 0
            future = self._workers.submit(_search_together, self._current, batch)
            # The worker thread calls this when it has finished. Futures of asyncio may be touched
            # on the event loop only, hence the way back.
            future.add_done_callback(
                lambda done: loop.call_soon_threadsafe(self._finish, loop, batch, done)
            )

    def _is_time(self) -> bool:
        # `seen` is 0 after a batch was begun, so that the next batch gets two looks or more, unless
        # it is full or a single search.
        seen, self._num_seen = self._num_seen, len(self._plain)
        if self._num_waiting >= BATCH_VECTORS or (len(self._plain) == 1 and self._last_batch <= 1):
            return True

        return seen == len(self._plain) or time.monotonic() - self._first_arrival >= LONGEST_SECONDS

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[Search[Any]], done: Any) -> None:
        error = done.exception()
        answers = [None] * len(batch) if error is not None else done.result()

        for search, answer in zip(batch, answers, strict=True):
            # Its client has gone, and has cancelled the future.
            if search.done.done():
                continue
            problem = answer if isinstance(answer, Exception) else error
            if problem is not None:
                search.done.set_exception(problem)
            else:
                search.done.set_result(answer)

        loop.call_soon(self._look, loop)

    def _take_batch(self) -> list[Search[Any]]:
        batch: list[Search[Any]] = []
        num_vectors, now = 0, time.monotonic()

        # One search may be larger than a batch: the first is taken whatever its size.
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
    """The answer to each search of the batch, or the exception that it ends with.

    Runs on the worker thread.
    """
    generation = current()
    vectors = unpack_vectors(
        b"".join([search.packed for search in batch]), generation.base.table.vectors.shape[1]
    )

    usable = have_direction(vectors)
    # A vector without a direction must not spoil the batch: it is searched as a vector of ones, and
    # its search is refused below.
    if not usable.all():
        vectors = np.where(usable[:, None], vectors, np.float32(1.0))

    # All searches of a batch get the largest k among them; each is cut to its own k below.
    numbers, similarities = generation.search(unit(vectors), max(search.k for search in batch))

    answers: list[Any] = []
    first = 0
    for search in batch:
        # Each search owns the next `num_vectors` rows of the batch.
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
    except Exception as error:  # noqa: BLE001 (raised on the event loop, for this search alone)
        return error


def _search_alone(current: Callable[[], Generation], search: Search[Answer]) -> Answer:
    # The search may have waited too long behind others: nobody waits for its answer now.
    if search.deadline < time.monotonic():
        raise TimeoutError

    generation = current()
    vectors = unpack_vectors(search.packed, generation.base.table.vectors.shape[1])
    usable = have_direction(vectors)
    if not usable.all():
        raise no_direction(int(np.argmin(usable)))

    found = generation.search(unit(vectors), search.k, search.allowed(generation))
    return search.finish(generation, found)


def _use_threads(number: int) -> None:
    # OpenMP keeps this number for each thread, and so it is set on the worker thread itself.
    load_faiss().omp_set_num_threads(number)

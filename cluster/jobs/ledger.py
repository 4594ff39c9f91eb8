"""Which shards are left, how often each was tried, and when and where it may be tried again.

A failure is charged to the shard, because most often it is the shard that cannot be read. But it
may be the node's: when a place fails on one shard after another, the charges are taken back with
`pardon`. A shard that failed waits before it is tried again, each time longer, so that a storage
that refuses for a minute costs no shard, and it is tried on other nodes first.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from actors.work.task import ShardTask

FIRST_WAIT_SECONDS = 1.0
WAIT_FACTOR = 4.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard that this run gave up, and why; the next run tries it again."""

    name: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class _Retry:
    task: ShardTask
    not_before: float  # by the ledger's clock


class ShardLedger:
    """The shards of a run that nobody works on: those never tried, and those that failed.

    `clock` gives seconds.
    """

    def __init__(
        self,
        todo: Sequence[ShardTask],
        max_attempts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_attempts = max_attempts
        self._clock = clock
        self._fresh = deque(todo)
        self._retries: list[_Retry] = []
        self._given_up: dict[str, ShardTask] = {}
        self._tries: Counter[str] = Counter()
        self._charges: Counter[str] = Counter()
        self._errors: dict[str, str] = {}  # the last one of each shard
        self._tried_on: dict[str, set[str]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no shard waits to be worked on."""
        return not self._fresh and not self._retries

    @property
    def failed(self) -> list[FailedShard]:
        """The shards that were given up."""
        return [
            FailedShard(task.name, self._tries[url], self._errors[url])
            for url, task in self._given_up.items()
        ]

    def take(
        self, node: str, nodes: Collection[str], *, fresh_first: bool = False
    ) -> ShardTask | None:
        """Take a shard to work on at `node`, or None when there is none for it now.

        One that has failed comes first when its time has come, unless `fresh_first`. It goes to a
        node where it has failed only when it has failed on all `nodes` that work.
        """
        if fresh_first and self._fresh:
            return self._fresh.popleft()

        now = self._clock()
        for place, retry in enumerate(self._retries):
            tried = self._tried_on.get(retry.task.url, set())
            if retry.not_before <= now and (node not in tried or tried.issuperset(nodes)):
                return self._retries.pop(place).task

        return self._fresh.popleft() if self._fresh else None

    def give_back(self, tasks: Sequence[ShardTask]) -> None:
        """Put back shards that were not begun, in front of the others."""
        self._fresh.extendleft(reversed(tasks))

    def charge(self, task: ShardTask, node: str, error: str) -> bool:
        """Count a failed attempt; returns False when it was the last one that is allowed."""
        self._charges[task.url] += 1
        self._tried_on.setdefault(task.url, set()).add(node)
        self._note(task, error)
        if self._charges[task.url] < self._max_attempts:
            self._wait(task)
            return True

        self._given_up[task.url] = task
        return False

    def excuse(self, task: ShardTask, error: str) -> None:
        """Put back a shard whose attempt ended for a reason that is not its own."""
        self._note(task, error)
        self._wait(task)

    def pardon(self, tasks: Iterable[ShardTask]) -> None:
        """Take back one charge of each; a shard that was given up for it waits again."""
        for task in tasks:
            self._charges[task.url] -= 1
            if self._given_up.pop(task.url, None) is not None:
                self._wait(task)

    def give_up_rest(self, why: str) -> None:
        """Give up every shard that still waits."""
        for task in [*(retry.task for retry in self._retries), *self._fresh]:
            last = self._errors.get(task.url)
            self._errors[task.url] = why if last is None else f"{why}; the last attempt: {last}"
            self._given_up[task.url] = task

        self._retries.clear()
        self._fresh.clear()

    def attempts(self, task: ShardTask) -> int:
        """How often the shard was tried, whoever was to blame."""
        return self._tries[task.url]

    def _note(self, task: ShardTask, error: str) -> None:
        self._tries[task.url] += 1
        self._errors[task.url] = error

    def _wait(self, task: ShardTask) -> None:
        seconds = FIRST_WAIT_SECONDS * WAIT_FACTOR ** (self._tries[task.url] - 1)
        wait = min(seconds, LONGEST_WAIT_SECONDS)
        self._retries.append(_Retry(task, self._clock() + wait))

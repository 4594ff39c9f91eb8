"""Reader processes on Ray, and a stream of utterances that outlives them.

Readers are processes of their own, so that a crash inside a codec costs one reader and not the
model beside it. Threads inside the labeler were faster by a few percent and lost for that reason; a
process pool hangs for good when a child is killed. Chunks travel through the node's object store
and reach the labeler as read-only views.

Three rules learned from Ray are kept here. Streaming generators are drained in the order they were
submitted (one that is held blocks its reader for ever). Every wait has a limit. A reader that died
is replaced, and the next one goes on at the next undelivered utterance.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.reading.utterance import Utterance
from shards.storage.files import open_ranged
from shards.tar.reader import index_shard

log = logging.getLogger(__name__)

CHUNKS_AHEAD = 4  # decoded chunks a reader may hold beyond the one being labeled: about 24 MB
# When so many readers died on one utterance without delivering it, the utterance is to blame.
CRASHES_BEFORE_BLAME = 3
STARTS_BEFORE_GIVING_UP = 5  # readers lost before they could open the shard
READ_TIMEOUT_SECONDS = 600.0  # for one chunk; a decoder that takes longer counts as crashed


class ReaderLostError(RuntimeError):
    """Readers keep dying before they can open a shard: the node is in trouble, not the shard."""


class ReaderActor:
    """A `ShardReader` in a process of its own."""

    def __init__(self, media: MediaConfig, needs: Needs) -> None:
        self._reader = ShardReader(media, needs)
        self._reader.setup()

    def read(
        self, url: str, start: int, one_by_one: bool
    ) -> Iterator[ShardOpened | list[Utterance]]:
        """Yield what `ShardReader.read` yields."""
        yield from self._reader.read(url, start=start, one_by_one=one_by_one)


remote_reader: Any = ray.remote(max_restarts=0, max_task_retries=0)(ReaderActor)


@dataclass(slots=True, kw_only=True)
class ReaderSlot:
    """A place for one reader, which is made when needed, and again after it died."""

    media: MediaConfig
    needs: Needs
    options: dict[str, Any]
    handle: Any = None

    def submit(self, url: str, start: int, *, one_by_one: bool) -> Any:
        """Ask the reader for a stream; returns Ray's generator of references."""
        if self.handle is None:
            self.handle = remote_reader.options(**self.options).remote(self.media, self.needs)
        method = self.handle.read.options(
            num_returns="streaming", _generator_backpressure_num_objects=CHUNKS_AHEAD
        )
        return method.remote(url, start, one_by_one)

    def replace(self, lost: Any) -> None:
        """Forget the reader `lost`, and end it in case it only hangs.

        Nothing happens when another stream has replaced it already.
        """
        if self.handle is lost and lost is not None:
            ray.kill(lost)
            self.handle = None


class ShardStream:
    """The utterances of one shard, in order, each exactly once, whatever happens to the readers."""

    def __init__(self, slot: ReaderSlot, url: str) -> None:
        self._slot = slot
        self._url = url
        self._next = 0
        self._crashes = 0
        self._starts = 0
        self._opened: ShardOpened | None = None
        self._submit(one_by_one=False)

    def open(self) -> ShardOpened:
        """Wait until the shard is open.

        Raises OSError when the shard cannot be opened, ReaderLostError when no reader survives.
        """
        while self._opened is None:
            item = self._receive()
            if isinstance(item, ShardOpened):
                self._opened = item
        return self._opened

    def __iter__(self) -> Iterator[Utterance]:
        opened = self.open()

        while self._next < opened.num_utterances:
            item = self._receive()
            if isinstance(item, list):
                for utterance in item:
                    self._next = utterance.index + 1
                    self._crashes = 0
                    yield utterance
            elif item is None and self._crashes >= CRASHES_BEFORE_BLAME:
                yield self._blame()

    def close(self) -> None:
        """Drop what was not consumed, so that the reader is free for the next shard."""
        del self._generator

    def _blame(self) -> Utterance:
        """The utterance no reader survives, with the reason; reading goes on behind it."""
        # Why here, outside a reader: the index is plain Python, only decoding is dangerous.
        with open_ranged(self._url) as reader:
            entry = index_shard(reader).entries[self._next]

        culprit = Utterance(
            index=self._next,
            key=entry.key,
            offset=entry.offset,
            size=entry.size,
            error=f"reader_crashed: {self._crashes} readers died while decoding this sample",
        )

        self._next += 1
        self._crashes = 0
        self._submit(one_by_one=True)
        return culprit

    def _submit(self, *, one_by_one: bool) -> None:
        self._generator = self._slot.submit(self._url, self._next, one_by_one=one_by_one)
        self._reader = self._slot.handle
        self._saw_opening = False

    def _receive(self) -> ShardOpened | list[Utterance] | None:
        """The next item, or None when a reader was lost and has been replaced."""
        try:
            item = self._take()
        except (RayActorError, ActorUnavailableError) as lost:
            self._recover(lost)
            return None
        if isinstance(item, ShardOpened):
            self._saw_opening = True
            self._starts = 0
        return item

    def _take(self) -> ShardOpened | list[Utterance]:
        ready, _ = ray.wait([self._generator], timeout=READ_TIMEOUT_SECONDS)
        if not ready:
            raise ActorUnavailableError(
                f"no chunk of {self._url} within {READ_TIMEOUT_SECONDS:.0f} s", None
            )
        item: ShardOpened | list[Utterance] = ray.get(
            next(self._generator), timeout=READ_TIMEOUT_SECONDS
        )
        return item

    def _recover(self, lost: Exception) -> None:
        if self._saw_opening:
            self._crashes += 1
        else:
            self._starts += 1

        if self._starts >= STARTS_BEFORE_GIVING_UP:
            raise ReaderLostError(
                f"{self._starts} readers died before they could open {self._url}"
            ) from lost

        log.warning("a reader of %s was lost at sample %d; starting another", self._url, self._next)
        self._slot.replace(self._reader)
        self._submit(one_by_one=True)

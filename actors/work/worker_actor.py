"""A worker on Ray: an actor that holds the models and owns its readers.

There is one worker for each GPU, or for each share of the CPUs. All do the same work on different
shards, so nothing needs balancing between models. The driver announces a shard with `prepare` as
soon as it is assigned, and a reader starts at once; `work` then finds the stream running. A control
thread answers `progress` while the model computes. Subclasses decide what is done with a shard:
`LabelerActor` labels it, `EmbedderActor` embeds it.
"""

import os
import platform
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.reading.config import MediaConfig
from actors.reading.reader import Needs
from actors.reading.reader_actor import ReaderSlot, ShardStream
from actors.work.task import (
    ShardOutcome,
    ShardProgress,
    ShardTask,
    WorkerHome,
    require_writable,
)

READER_BUNDLE = 1  # bundle 0 of the placement group is the worker's
REMOTE_OPTIONS: dict[str, Any] = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "concurrency_groups": {"control": 1},
}


@dataclass(frozen=True, slots=True)
class SharedResults:
    """A reference to the EarlierResults of a job.

    Ray replaces a bare reference by what it refers to; in here, it reaches the readers unread.
    """

    reference: Any


class ShardWorker(ABC):
    """Models, their readers and the shards assigned to them."""

    def __init__(
        self,
        media: MediaConfig,
        needs: Needs,
        earlier: SharedResults | None,
        num_threads: int,
        num_readers: int,
    ) -> None:
        self._num_threads = num_threads
        self._progress = ShardProgress()

        options = _reader_options(num_readers)
        reference = None if earlier is None else earlier.reference
        self._slots = [
            ReaderSlot(media=media, needs=needs, options=options, earlier=reference)
            for _ in range(num_readers)
        ]

        self._streams: dict[str, ShardStream] = {}
        self._announced: set[str] = set()
        # Why a lock: `prepare` runs on the control thread, `work` on the main one.
        self._lock = threading.Lock()
        self._num_started = 0

    @abstractmethod
    def load(self, num_threads: int) -> None:
        """Load the models. Raises their errors, which are shown to a person."""

    @abstractmethod
    def finish(self, task: ShardTask, stream: ShardStream, shard_error: str | None) -> ShardOutcome:
        """Do the shard's work, commit its table, and count utterances in `_progress`."""

    def setup(self, out: str, witness: str) -> WorkerHome:
        """Check that tables can be written to `out`, load the models, and say where this is.

        `witness` is the name of a file in `out` that the driver has written.
        """
        require_writable(out, witness)
        self.load(self._num_threads)
        node_id = ray.get_runtime_context().get_node_id()
        return WorkerHome(pid=os.getpid(), host=platform.node(), node_id=node_id)

    @ray.method(concurrency_group="control")
    def prepare(self, task: ShardTask) -> None:
        """Start to read the shard, which `work` will be called for.

        Control calls may overtake: when `work` has come first, nothing is left to do here.
        """
        if task.table_url not in self._announced:
            self._start(task)

    @ray.method(concurrency_group="control")
    def progress(self) -> int:
        """The number of utterances this actor has done, unfinished shards included."""
        return self._progress.num_utterances

    def work(self, task: ShardTask) -> ShardOutcome:
        """Read one shard to its end and commit its table."""
        stream = self._start(task)
        try:
            return self.finish(task, stream, stream.open().error)
        finally:
            with self._lock:
                self._streams.pop(task.table_url).close()

    def _start(self, task: ShardTask) -> ShardStream:
        with self._lock:
            self._announced.add(task.table_url)
            if task.table_url not in self._streams:
                slot = self._slots[self._num_started % len(self._slots)]
                self._num_started += 1
                self._streams[task.table_url] = ShardStream(slot, task.url)

            return self._streams[task.table_url]


def _reader_options(num_readers: int) -> dict[str, Any]:
    """Ray options that keep readers in the worker's placement group, and chunks on its node."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {"num_cpus": 0}

    share = group.bundle_specs[READER_BUNDLE].get("CPU", 0) / num_readers
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group,
        placement_group_bundle_index=READER_BUNDLE,
        placement_group_capture_child_tasks=True,
    )

    return {"num_cpus": share, "scheduling_strategy": strategy}

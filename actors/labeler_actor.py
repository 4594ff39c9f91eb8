"""The labeler on Ray: one actor a GPU (or a share of the CPUs) that holds the whole panel and owns its readers.

Every GPU does the same work on different shards, so nothing needs balancing between models. The driver announces a
shard with `prepare` as soon as it is assigned, and its reader starts at once; `label` then finds the stream running.
Progress is answered by a control thread while the model computes.
"""

import os
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.panel_config import PanelConfig, PanelIdentity
from actors.reader_actor import ReaderSlot, ShardStream
from actors.reading import Needs
from actors.shard_labeling import ShardOutcome, ShardProgress, ShardTask, label_shard

READER_BUNDLE = 1  # bundle 0 of the placement group is the labeler's


class LabelerActor:
    """A panel, its readers and the shards assigned to them."""

    def __init__(self, config: PanelConfig, identity: PanelIdentity, num_threads: int, num_readers: int) -> None:
        self._config = config
        self._num_threads = num_threads
        from actors.panel import Panel  # here, so that the driver, which only names this class, loads no torch

        self._panel = Panel(config, identity)
        self._progress = ShardProgress()
        self._slots = [
            ReaderSlot(media=config.media, needs=_needs(config), options=_reader_options(num_readers))
            for _ in range(num_readers)
        ]
        self._streams: dict[str, ShardStream] = {}
        self._announced: set[str] = set()
        self._lock = threading.Lock()
        self._num_started = 0

    def setup(self) -> dict[str, Any]:
        """Load the models. Returns what was loaded; raises what went wrong, to be shown to a person."""
        self._panel.setup(num_threads=self._num_threads)
        return {"pid": os.getpid(), "labelers": self._panel.labelers}

    @ray.method(concurrency_group="control")
    def prepare(self, task: ShardTask) -> None:
        """Start reading the shard; `label` for it follows (or came first: control calls may overtake)."""
        if task.table_url not in self._announced:
            self._start(task)

    @ray.method(concurrency_group="control")
    def progress(self) -> int:
        """Utterances labeled by this actor so far, unfinished shards included."""
        return self._progress.total_labeled

    def label(self, task: ShardTask) -> ShardOutcome:
        """Label one shard and commit its table."""
        stream = self._start(task)
        try:
            opened = stream.open()
            return label_shard(task, self._panel, stream, shard_error=opened.error, progress=self._progress)
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


remote_labeler: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})(LabelerActor)


def _needs(config: PanelConfig) -> Needs:
    audio = config.audio is not None or config.speech_recognition is not None or config.objectives_need_audio
    return Needs(audio=audio, vision=config.vision is not None or config.objectives_need_vision)


def _reader_options(num_readers: int) -> dict[str, Any]:
    """Readers share bundle 1 of the labeler's placement group, so a chunk never leaves the node."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {"num_cpus": 0}
    share = group.bundle_specs[READER_BUNDLE]["CPU"] / num_readers
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=READER_BUNDLE, placement_group_capture_child_tasks=True
    )
    return {"num_cpus": share, "scheduling_strategy": strategy}

"""The labeler on Ray: a worker that holds the whole panel."""

from typing import Any

import ray

from actors.labeling.config import PanelConfig
from actors.labeling.identity import PanelIdentity
from actors.labeling.shard import label_shard
from actors.reading.reader import Needs
from actors.reading.reader_actor import ShardStream
from actors.work.task import ShardOutcome, ShardTask
from actors.work.worker_actor import REMOTE_OPTIONS, ShardWorker, SharedResults
from shards.media.faces import FaceCropper
from shards.samples.content import SEEN_BY_LABELERS
from shards.tables.predictions import read_info


class LabelerActor(ShardWorker):
    """A panel, its readers and the shards assigned to them."""

    def __init__(
        self,
        config: PanelConfig,
        identity: PanelIdentity,
        earlier: SharedResults | None,
        num_threads: int,
        num_readers: int,
    ) -> None:
        super().__init__(config.media, _needs(config), earlier, num_threads, num_readers)
        # Why here: the driver, which only names this class, is to load no torch.
        from actors.labeling.panel import Panel

        self._config, self._earlier = config, earlier
        self._panel = Panel(config, identity)

    def load(self, num_threads: int) -> None:
        """Load the panel, and the face detector once, to see that it can be loaded.

        Without the detector readers would die, or every face would be missing. Where results may be
        taken over from earlier tables, the panel waits for the first utterance that it has to see:
        there may be none.
        """
        if self._earlier is None:
            self._panel.setup(num_threads=num_threads)
        else:
            first = ray.get(self._earlier.reference).tables[0]
            self._panel.setup_later(num_threads, read_info(first).labelers)
        if self._panel.looks_at_crops or (
            _needs(self._config).vision and self._config.media.faces.detector
        ):
            FaceCropper(self._config.media.faces).setup()

    def finish(self, task: ShardTask, stream: ShardStream, shard_error: str | None) -> ShardOutcome:
        """Label the shard."""
        return label_shard(
            task, self._panel, stream, shard_error=shard_error, progress=self._progress
        )


remote_labeler: Any = ray.remote(**REMOTE_OPTIONS)(LabelerActor)


def _needs(config: PanelConfig) -> Needs:
    audio = (
        config.audio is not None
        or config.speech_recognition is not None
        or config.objectives_need_audio
    )
    vision = config.vision is not None or config.objectives_need_vision
    return Needs(audio=audio, vision=vision, metadata=True, seen=SEEN_BY_LABELERS)

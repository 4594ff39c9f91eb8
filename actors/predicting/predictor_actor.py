"""The predictor on Ray: a worker that holds one recognizer."""

from typing import Any

import ray

from actors.predicting.config import PredictConfig
from actors.predicting.identity import maker_of
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs
from actors.reading.reader_actor import ShardStream
from actors.work.task import ShardOutcome, ShardTask
from actors.work.worker_actor import REMOTE_OPTIONS, ShardWorker, SharedResults
from shards.config import ConfigError


class PredictorActor(ShardWorker):
    """A recognizer, its readers and the shards assigned to them."""

    def __init__(
        self,
        config: PredictConfig,
        maker: str,
        needs: Needs,
        earlier: SharedResults | None,
        num_threads: int,
        num_readers: int,
    ) -> None:
        media = MediaConfig(max_audio_seconds=config.max_seconds)
        super().__init__(media, needs, earlier, num_threads, num_readers)
        self._config, self._maker = config, maker

    def load(self, num_threads: int) -> None:
        """Load the recognizer.

        Raises ConfigError when this machine has other weights by that name than the driver.
        """
        # Why here: the driver imports this module too, and loads no torch.
        from actors.predicting.recognizers import PieceRecognizer

        if maker_of(self._config) != self._maker:
            raise ConfigError(
                f"--checkpoint {self._config.checkpoint}: this node has other files there than the "
                "driver; put the very same files on every node, or use shared storage"
            )
        self._recognizer = PieceRecognizer(self._config.checkpoint)
        self._recognizer.setup(num_threads)

    def finish(self, task: ShardTask, stream: ShardStream, shard_error: str | None) -> ShardOutcome:
        """Recognize the shard."""
        from actors.predicting.shard import predict_shard

        return predict_shard(
            task,
            self._recognizer,
            self._config,
            stream,
            stream.open().num_utterances,
            shard_error=shard_error,
            progress=self._progress,
        )


remote_predictor: Any = ray.remote(**REMOTE_OPTIONS)(PredictorActor)

"""The extractor on Ray: a worker that holds one frozen encoder."""

from typing import Any

import ray

from actors.embedding.config import EmbedderConfig
from actors.features.config import LayerChoice, features_fingerprint
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs
from actors.reading.reader_actor import ShardStream
from actors.work.task import ShardOutcome, ShardTask
from actors.work.worker_actor import REMOTE_OPTIONS, ShardWorker, SharedResults
from shards.config import ConfigError


class ExtractorActor(ShardWorker):
    """An encoder, its readers and the shards assigned to them."""

    def __init__(
        self,
        encoder: EmbedderConfig,
        layers: LayerChoice,
        maker: str,
        earlier: SharedResults | None,
        num_threads: int,
        num_readers: int,
    ) -> None:
        needs = Needs(audio=True, vision=False)
        super().__init__(MediaConfig(), needs, earlier, num_threads, num_readers)
        # Here, so that the driver loads no torch.
        from actors.features.extractors import make_extractor

        self._config, self._layers, self._maker = encoder, layers, maker
        self._extractor = make_extractor(encoder, layers)

    def load(self, num_threads: int) -> None:
        """Load the encoder.

        Raises ConfigError when this machine has other weights by that name than the driver.
        """
        mine = features_fingerprint(self._config, self._layers)
        if mine != self._maker:
            raise ConfigError(
                f"--encoder {self._config.encoder}: this node has {mine}, the driver "
                f"{self._maker}; put the very same files on every node, or use shared storage"
            )

        self._extractor.setup(num_threads)

    def finish(self, task: ShardTask, stream: ShardStream, shard_error: str | None) -> ShardOutcome:
        """Make the features of the shard."""
        from actors.features.shard import extract_shard

        return extract_shard(
            task,
            self._extractor,
            self._config.encoder,
            stream,
            shard_error=shard_error,
            progress=self._progress,
        )


remote_extractor: Any = ray.remote(**REMOTE_OPTIONS)(ExtractorActor)

"""The embedder on Ray: a worker that holds one encoder."""

from typing import Any

import ray

from actors.embedding.config import EmbedderConfig, fingerprint
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs
from actors.reading.reader_actor import ShardStream
from actors.work.task import ShardOutcome, ShardTask
from actors.work.worker_actor import REMOTE_OPTIONS, ShardWorker
from shards.config import ConfigError


class EmbedderActor(ShardWorker):
    """An encoder, its readers and the shards assigned to them."""

    def __init__(
        self, config: EmbedderConfig, maker: str, num_threads: int, num_readers: int
    ) -> None:
        super().__init__(
            MediaConfig(), Needs(audio=True, vision=False, metadata=True), num_threads, num_readers
        )
        from actors.embedding.embedders import (
            make_embedder,
        )  # here, so that the driver loads no torch

        self._config, self._maker = config, maker
        self._embedder = make_embedder(config)

    def load(self, num_threads: int) -> None:
        """Load the encoder.

        Raises ConfigError when this machine has other weights by that name than the driver.
        """
        mine = fingerprint(self._config)
        if mine != self._maker:
            raise ConfigError(
                f"--encoder {self._config.encoder}: this node has {mine}, the driver "
                f"{self._maker}; put the very same files on every node, or use shared storage"
            )

        self._embedder.setup(num_threads)

    def finish(self, task: ShardTask, stream: ShardStream, shard_error: str | None) -> ShardOutcome:
        """Embed the shard."""
        from actors.embedding.shard import embed_shard

        return embed_shard(
            task,
            self._embedder,
            self._config.encoder,
            stream,
            shard_error=shard_error,
            progress=self._progress,
        )


remote_embedder: Any = ray.remote(**REMOTE_OPTIONS)(EmbedderActor)

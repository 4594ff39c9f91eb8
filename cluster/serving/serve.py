"""`emostream serve`: the speaker index over gRPC, from a speaker table and a folder that keeps what clients write.

One process serves and writes. With --follow it serves what another process writes to the same folder; with --replicas
Ray Serve runs a writer and followers.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from cluster.serving.config import ServeConfig

if TYPE_CHECKING:
    from actors.speaker_index.serving.service import SpeakerIndex  # with FAISS, which the help text does not need

log = logging.getLogger(__name__)


def run_serve(config: ServeConfig) -> int:
    """Serve until SIGTERM or SIGINT."""
    if config.replicas:
        from cluster.serving.on_ray import serve_on_ray

        return serve_on_ray(config)
    index = open_index(config)
    try:
        asyncio.run(_serve(config, index))
    finally:
        index.close()
    return 0


def open_index(config: ServeConfig) -> "SpeakerIndex":
    """The store, or the follower, that the options ask for."""
    from actors.speaker_index.storage.follower import SpeakerFollower
    from actors.speaker_index.storage.store import open_store

    if config.speakers is None:
        return SpeakerFollower(config.data, config.index)
    return open_store(config.data, config.speakers, config.index)


async def _serve(config: ServeConfig, index: "SpeakerIndex") -> None:
    from actors.speaker_index.serving.server import ServerConfig, SpeakerServer
    from actors.speaker_index.serving.service import Limits, SpeakerService

    limits = Limits(max_vectors=config.max_vectors, max_k=config.max_k)
    service = SpeakerService(index, limits, num_threads=config.threads or max(1, (os.cpu_count() or 1) - 1))
    offered = ServerConfig(
        host=config.host,
        port=config.port,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        client_ca=config.client_ca,
        tokens=config.tokens,
        requests_per_second=config.requests_per_second,
        max_seconds=config.max_seconds,
        max_message_bytes=config.max_message_mib << 20,
        reflection=config.reflection,
        log_requests=config.log_requests,
        metrics_port=config.metrics_port,
    )
    server = SpeakerServer(service, offered)
    port = await server.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    generation = index.generation
    sys.stdout.write(f"serving {len(generation)} speakers (generation {generation.number}) on {config.host}:{port}\n")
    sys.stdout.flush()
    await ended.wait()
    log.info("ending: finishing what has begun within %g s", config.drain_seconds)
    await server.stop(config.drain_seconds)
    service.close()

"""`emostream serve`: the speaker index over gRPC.

It begins with a speaker table, and a folder keeps what clients write. One process serves and
writes. With --follow it serves what another process writes to the same folder. With --replicas, Ray
Serve runs a writer and followers.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from actors.speaker_index.serving.config import ServerConfig
from cluster.serving.config import ServeConfig

if TYPE_CHECKING:
    # This module brings FAISS, which the help text does not need.
    from actors.speaker_index.serving.service import SpeakerIndex

log = logging.getLogger(__name__)


def run_serve(config: ServeConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns exit status 0."""
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
    """The store that --speakers asks for, or the follower that --follow asks for."""
    from actors.speaker_index.storage.follower import SpeakerFollower
    from actors.speaker_index.storage.store import open_store

    if config.speakers is None:
        return SpeakerFollower(config.data, config.index)
    return open_store(config.data, config.speakers, config.index)


async def _serve(config: ServeConfig, index: "SpeakerIndex") -> None:
    from actors.speaker_index.serving.server import SpeakerServer
    from actors.speaker_index.serving.service import SpeakerService

    num_threads = config.threads or max(1, (os.cpu_count() or 1) - 1)
    service = SpeakerService(index, config.limits.of_service, num_threads=num_threads)

    offered = ServerConfig(
        listen=config.listen,
        callers=config.callers,
        limits=config.limits,
        observing=config.observing,
    )
    server = SpeakerServer(service, offered)
    port = await server.start()

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)

    generation, host = index.generation, config.listen.host
    sys.stdout.write(
        f"serving {len(generation)} speakers (generation {generation.number}) on {host}:{port}\n"
    )
    sys.stdout.flush()
    await ended.wait()

    log.info("ending: finishing what has begun within %g s", config.drain_seconds)
    await server.stop(config.drain_seconds)
    service.close()

"""A speaker server within the test's process, on an event loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.serving.config import Limits, ServerConfig
from actors.speaker_index.serving.server import SpeakerServer
from actors.speaker_index.serving.service import SpeakerIndex, SpeakerService
from actors.speaker_index.storage.store import open_store
from shards.config_values import from_mapping
from tests.actors.speaker_index.speaker_world import write_table

LIMITS = Limits(max_vectors=64, max_k=50, max_neighbors=500, max_predictions=1000)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on `target`."""

    target: str
    port: int
    index: SpeakerIndex
    loop: asyncio.AbstractEventLoop

    def num_tasks(self) -> int:
        """The number of the server's tasks, its own included."""
        return len(asyncio.all_tasks(self.loop))


@contextmanager
def running_server(
    folder: Path,
    *,
    num_speakers: int = 40,
    index: SpeakerIndex | None = None,
    limits: Limits = LIMITS,
    **config: Any,
) -> Iterator[Running]:
    """Serve a small table from `folder`; the server is stopped and closed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    if index is None:
        index = open_store(
            str(folder / "data"),
            write_table(folder / "speakers.parquet", num_speakers),
            IndexConfig(),
        )

    values: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "log_requests": "none"} | config
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    service = SpeakerService(index, limits, num_threads=1)

    async def start() -> tuple[SpeakerServer, int]:
        server = SpeakerServer(service, from_mapping(ServerConfig, values))
        return server, await server.start()

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=30)
    try:
        yield Running(f"localhost:{port}", port, index, loop)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(1.0), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        service.close()
        index.close()

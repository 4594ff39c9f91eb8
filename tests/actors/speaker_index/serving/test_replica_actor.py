"""What a replica does with calls and writes, without Ray: its limits, and a writer that is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.serving.config import CallersConfig, LimitsConfig, ReplicaConfig
from actors.speaker_index.serving.replica_actor import SpeakerReplica, _Refused
from actors.speaker_index.storage.store import open_store
from protos import speaker_index_pb2 as messages
from tests.actors.speaker_index.speaker_world import (
    FINGERPRINT,
    WIDTH,
    make_message,
    make_vectors,
    write_table,
)

TOKEN, OTHER = "r" * 20, "o" * 20


class Call:
    """A call's context, as Serve passes it on."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {TOKEN}"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


class LostWriter:
    """The handle of a writer that dies at every write."""

    def __init__(self, error: Exception) -> None:
        self.write = SimpleNamespace(remote=self._write)
        self._error = error

    async def _write(self, *_: object) -> None:
        raise self._error


@pytest.fixture
def config(tmp_path: Path) -> Iterator[ReplicaConfig]:
    speakers = write_table(tmp_path / "speakers.parquet", 6)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"write me {TOKEN}\n")
    tokens.chmod(0o600)

    store = open_store(str(tmp_path / "data"), speakers, IndexConfig())
    yield ReplicaConfig(
        data=str(tmp_path / "data"),
        speakers=speakers,
        index=IndexConfig(),
        callers=CallersConfig(tokens=str(tokens)),
        limits=LimitsConfig(max_message_mib=1),
        threads=1,
    )

    store.close()


def search_request(number: int) -> messages.SearchRequest:
    vectors = [messages.Vector(values=row) for row in make_vectors(number).tolist()]
    return messages.SearchRequest(encoder_fingerprint=FINGERPRINT, vectors=vectors, k=2)


@pytest.mark.parametrize("error", [ActorDiedError(), ActorUnavailableError("gone", None)])
def test_a_lost_writer_is_unavailable(config: ReplicaConfig, error: Exception) -> None:
    """The client is told that it may ask again, and not that the server failed."""
    replica, call = SpeakerReplica(config, LostWriter(error)), Call()
    request = messages.UpsertRequest(
        encoder_fingerprint=FINGERPRINT, speakers=[make_message("a", [1.0] * WIDTH)]
    )
    with pytest.raises(_Refused, match="may or may not be there"):
        asyncio.run(replica.Upsert(request, call))
    assert call.code is grpc.StatusCode.UNAVAILABLE
    replica._index.close()


def test_a_message_that_is_too_large_is_refused(config: ReplicaConfig) -> None:
    """A message that Serve's proxy lets through is refused, alone and in a stream."""
    replica = SpeakerReplica(config, None)
    large, small = search_request(2**20 // (4 * WIDTH) + 1), search_request(1)
    assert asyncio.run(replica.Search(small, Call())).generation == 1

    call = Call()
    with pytest.raises(_Refused, match="expected at most 1048576"):
        asyncio.run(replica.Search(large, call))
    assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    call = Call()
    with pytest.raises(_Refused, match="expected at most 1048576"):
        asyncio.run(answers_of(replica, [small, large], call))
    assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    replica._index.close()


def test_a_token_that_is_taken_back_ends_a_stream(
    config: ReplicaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends at its next request when its token is taken back."""
    monkeypatch.setattr("actors.speaker_index.serving.access.LOOK_SECONDS", 0.0)
    replica, call = SpeakerReplica(config, None), Call()

    def requests() -> Iterator[messages.SearchRequest]:
        yield search_request(1)
        Path(str(config.callers.tokens)).write_text(f"# changed\nwrite other {OTHER}\n")
        yield search_request(1)

    with pytest.raises(_Refused, match="not known"):
        asyncio.run(answers_of(replica, requests(), call))
    assert call.code is grpc.StatusCode.UNAUTHENTICATED
    replica._index.close()


async def answers_of(replica: SpeakerReplica, requests: Any, call: Call) -> list[Any]:
    async def stream() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [answer async for answer in replica.StreamSearch(stream(), call)]

"""The service over a real connection: right answers, and the right refusal for everything else."""

import json
import queue
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.vector_index import unit
from actors.speaker_index.serving.calls import METHODS, SERVICE
from actors.speaker_index.serving.config import Limits
from actors.speaker_index.serving.observing import RequestLog, Served
from actors.speaker_index.serving.server import SpeakerServer
from actors.speaker_index.storage.store import open_store
from protos import speaker_index_pb2 as messages
from protos.speaker_index_pb2_grpc import SpeakerIndexStub
from shards.speakers.pldc import calibrate
from tests.actors.speaker_index.certificates import Authority
from tests.actors.speaker_index.running_server import LIMITS, Running, running_server
from tests.actors.speaker_index.speaker_world import (
    FINGERPRINT,
    WIDTH,
    make_message,
    make_table,
    make_vectors,
    write_table,
)
from tests.ports import free_port

NUM_SPEAKERS = 40
NUM_VERSIONS = 150
READ, WRITE = "r" * 20, "w" * 20
READER = (("authorization", f"Bearer {READ}"),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without tokens that tests only read from, or leave as they found it."""
    with running_server(
        tmp_path_factory.mktemp("server"), num_speakers=NUM_SPEAKERS, max_message_mib=1
    ) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]


def search_request(number: int = 1, seed: int = 3, **changes: Any) -> messages.SearchRequest:
    vectors = [messages.Vector(values=row) for row in make_vectors(number, seed).tolist()]
    values = {"encoder_fingerprint": FINGERPRINT, "vectors": vectors, "k": 5} | changes
    return messages.SearchRequest(**values)


def code_of(call: Any, request: Any, **options: Any) -> str:
    """The name of the status with which a call ends."""
    try:
        call(request, timeout=options.pop("timeout", 20), **options)
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def test_the_most_alike_are_found_with_their_labels(stub: Any) -> None:
    """Names, cosines and label statistics of every query's neighbors are those of the table."""
    table, queries = make_table(NUM_SPEAKERS), unit(make_vectors(4, 3))
    cosines = queries @ unit(table.vectors).T

    answer = stub.Search(search_request(4))
    assert answer.generation == 1

    for row, one in enumerate(answer.results):
        best = np.argsort(-cosines[row])[:5]
        assert [neighbor.id for neighbor in one.neighbours] == [
            table.speakers[place] for place in best
        ]
        np.testing.assert_allclose(
            [n.similarity for n in one.neighbours], cosines[row][best], atol=1e-6
        )

        for neighbor, place in zip(one.neighbours, best, strict=True):
            expected = {
                name: (
                    np.float32(table.label_mean[place, v]),
                    np.float32(table.label_std[place, v]),
                    5,
                )
                for v, name in enumerate(table.dimensions)
                if table.label_count[place, v]
            }
            found = {
                label.dimension: (label.mean, label.standard_deviation, label.count)
                for label in neighbor.labels
            }
            assert found == expected


def test_some_are_left_out_or_asked_for(stub: Any) -> None:
    """Neighbors are neither excluded nor without the metadata asked for; k may exceed them all."""
    everyone = [neighbor.id for neighbor in stub.Search(search_request(k=50)).results[0].neighbours]
    assert len(everyone) == NUM_SPEAKERS

    few = (
        stub.Search(search_request(k=5, exclude_ids=[*everyone[:2], "stranger"]))
        .results[0]
        .neighbours
    )
    assert [neighbor.id for neighbor in few] == everyone[2:7]

    women = stub.Search(
        search_request(k=50, exclude_ids=everyone[:1], metadata_equals={"sex": "female"})
    )
    expected = [name for name in everyone[1:] if int(name[1:]) % 2]
    assert [neighbor.id for neighbor in women.results[0].neighbours] == expected

    nobody = stub.Search(search_request(metadata_equals={"sex": "none"})).results[0].neighbours
    assert not nobody


def test_calibration_is_equation_3_by_the_neighbors_named(stub: Any) -> None:
    """Calibration by a vector or a speaker uses its labeled neighbors, and never the speaker."""
    table = make_table(NUM_SPEAKERS)
    values = [0.1, 0.5, 0.9]
    asked = {
        "encoder_fingerprint": FINGERPRINT,
        "k": 3,
        "mode": messages.CALIBRATION_MODE_BOTH,
        "predictions": [messages.Predictions(dimension="valence", values=values)],
    }
    # This vector belongs to the one speaker that has no labels.
    vector = messages.Vector(values=table.vectors[-1].tolist())
    for target in ({"vector": vector}, {"speaker_id": table.speakers[-1]}):
        answer = stub.Calibrate(messages.CalibrateRequest(**asked, **target))
        names = [neighbor.id for neighbor in answer.neighbours]
        cosines = unit(table.vectors[-1:]) @ unit(table.vectors[:-1]).T
        assert names == [table.speakers[place] for place in np.argsort(-cosines[0])[:3]]

        rows = [table.speakers.index(name) for name in names]
        mean, std = table.label_mean[rows, 1].mean(), table.label_std[rows, 1].mean()
        expected = calibrate(
            np.float32(values)[:, None], np.asarray([mean]), np.asarray([std]), "both"
        )[:, 0]

        assert answer.calibrated[0].dimension == "valence"
        np.testing.assert_allclose(answer.calibrated[0].values, expected, rtol=1e-6)


def test_what_is_written_is_found_and_what_is_deleted_is_not(tmp_path: Path) -> None:
    """Upsert and Delete each make a generation, which Get and Search answer from."""
    with running_server(tmp_path) as running, grpc.insecure_channel(running.target) as channel:
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]

        vector = make_vectors(1, 3)[0].tolist()
        written = make_message("new", vector, metadata={"sex": "none"})
        assert (
            stub.Upsert(
                messages.UpsertRequest(encoder_fingerprint=FINGERPRINT, speakers=[written])
            ).generation
            == 2
        )

        assert stub.Get(messages.GetRequest(id="new")).speaker == written
        first = stub.Search(search_request()).results[0].neighbours[0]
        assert (first.id, round(first.similarity, 5)) == ("new", 1.0)

        answer = stub.Delete(messages.DeleteRequest(ids=["new", "new", "s001", "stranger"]))
        assert (answer.generation, answer.num_deleted) == (3, 2)
        assert code_of(stub.Get, messages.GetRequest(id="new")) == "NOT_FOUND"

        description = stub.Describe(messages.DescribeRequest())
        assert description.num_speakers == 39
        assert (description.dimension, description.encoder_fingerprint) == (WIDTH, FINGERPRINT)
        assert list(description.label_dimensions) == ["arousal", "valence"]


def test_streams_are_answered_in_order(stub: Any) -> None:
    """A stream of a hundred sizes and a stream that waits for each answer keep their order."""
    requests = [search_request(1 + number % 5, seed=number) for number in range(100)]
    answers = list(stub.StreamSearch(iter(requests), timeout=30))
    for answer, request in zip(answers, requests, strict=True):
        require_same(answer, stub.Search(request))

    received = threading.Semaphore(1)

    def one_at_a_time() -> Iterator[messages.SearchRequest]:
        for request in requests[:5]:
            received.acquire()
            yield request

    for number, answer in enumerate(stub.StreamSearch(one_at_a_time(), timeout=30)):
        require_same(answer, answers[number])
        received.release()


def require_same(answer: messages.SearchResponse, other: messages.SearchResponse) -> None:
    """Check that the speakers are the same, and the cosines equal to within rounding.

    Searches that are made together round otherwise than single ones.
    """
    for one, two in zip(answer.results, other.results, strict=True):
        assert [neighbor.id for neighbor in one.neighbours] == [
            neighbor.id for neighbor in two.neighbours
        ]
        cosines = [[neighbor.similarity for neighbor in found.neighbours] for found in (one, two)]
        np.testing.assert_allclose(*cosines, atol=1e-6)


BAD_VECTORS = {
    "nan": [np.nan] + [1.0] * (WIDTH - 1),
    "infinite": [np.inf] + [1.0] * (WIDTH - 1),
    "zero": [0.0] * WIDTH,
    "short": [1.0] * (WIDTH - 1),
    "long": [1.0] * (WIDTH + 1),
    "empty": [],
}


@pytest.mark.parametrize("vector", BAD_VECTORS.values(), ids=BAD_VECTORS.keys())
def test_vectors_without_a_direction_are_refused(stub: Any, vector: list[float]) -> None:
    """Such a vector is refused in a search, in a calibration and in an upsert without effect."""
    message = messages.Vector(values=vector)
    assert code_of(stub.Search, search_request(vectors=[message])) == "INVALID_ARGUMENT"

    calibration = messages.CalibrateRequest(
        encoder_fingerprint=FINGERPRINT,
        vector=message,
        k=1,
        mode=messages.CALIBRATION_MODE_MU,
        predictions=[messages.Predictions(dimension="arousal", values=[1.0])],
    )
    assert code_of(stub.Calibrate, calibration) == "INVALID_ARGUMENT"

    upsert = messages.UpsertRequest(
        encoder_fingerprint=FINGERPRINT, speakers=[make_message("bad", vector)]
    )
    assert code_of(stub.Upsert, upsert) == "INVALID_ARGUMENT"
    assert stub.Describe(messages.DescribeRequest()).generation == 1


def upsert_of(name: str = "bad", **changes: Any) -> messages.UpsertRequest:
    return messages.UpsertRequest(
        encoder_fingerprint=FINGERPRINT, speakers=[make_message(name, [1.0] * WIDTH, **changes)]
    )


def label(**changes: Any) -> dict[str, Any]:
    values = {"dimension": "arousal", "mean": 0.0, "standard_deviation": 1.0, "count": 1} | changes
    return {"labels": [messages.LabelStatistics(**values)]}


def predictions_of(number: int) -> list[messages.Predictions]:
    return [messages.Predictions(dimension="arousal", values=[1.0] * number)]


REFUSED: dict[str, tuple[str, Any, str]] = {
    "k of 0": ("Search", search_request(k=0), "INVALID_ARGUMENT"),
    "k too large": ("Search", search_request(k=LIMITS.max_k + 1), "INVALID_ARGUMENT"),
    "no vectors": ("Search", search_request(vectors=[]), "INVALID_ARGUMENT"),
    "too many vectors": ("Search", search_request(LIMITS.max_vectors + 1), "INVALID_ARGUMENT"),
    "too large an answer": ("Search", search_request(50, k=50), "INVALID_ARGUMENT"),
    "too many filters": (
        "Search",
        search_request(metadata_equals={str(number): "" for number in range(65)}),
        "INVALID_ARGUMENT",
    ),
    "another encoder": (
        "Search",
        search_request(encoder_fingerprint="another:1"),
        "FAILED_PRECONDITION",
    ),
    "no encoder": ("Search", search_request(encoder_fingerprint=""), "INVALID_ARGUMENT"),
    "a long name": ("Get", messages.GetRequest(id="x" * 900_000), "INVALID_ARGUMENT"),
    "no name": ("Get", messages.GetRequest(), "INVALID_ARGUMENT"),
    "control characters": ("Get", messages.GetRequest(id="a\x00b"), "INVALID_ARGUMENT"),
    "an unknown speaker": ("Get", messages.GetRequest(id="nobody"), "NOT_FOUND"),
    "nothing to delete": ("Delete", messages.DeleteRequest(), "INVALID_ARGUMENT"),
    "too much to delete": ("Delete", messages.DeleteRequest(ids=["a"] * 65), "INVALID_ARGUMENT"),
    "nothing to write": (
        "Upsert",
        messages.UpsertRequest(encoder_fingerprint=FINGERPRINT),
        "INVALID_ARGUMENT",
    ),
    "a line break in a name": ("Upsert", upsert_of("a\nb"), "INVALID_ARGUMENT"),
    "a name of 1 MB": ("Upsert", upsert_of("x" * 900_000), "INVALID_ARGUMENT"),
    "one speaker twice": (
        "Upsert",
        messages.UpsertRequest(
            encoder_fingerprint=FINGERPRINT, speakers=[make_message("a", [1.0] * WIDTH)] * 2
        ),
        "INVALID_ARGUMENT",
    ),
    "an unknown dimension": (
        "Upsert",
        upsert_of(**label(dimension="dominance")),
        "INVALID_ARGUMENT",
    ),
    "a negative spread": (
        "Upsert",
        upsert_of(**label(standard_deviation=-1.0)),
        "INVALID_ARGUMENT",
    ),
    "a mean that is not finite": (
        "Upsert",
        upsert_of(**label(mean=float("nan"))),
        "INVALID_ARGUMENT",
    ),
    "labels of nobody": ("Upsert", upsert_of(**label(count=0)), "INVALID_ARGUMENT"),
    "long metadata": ("Upsert", upsert_of(metadata={"a": "b" * 2000}), "INVALID_ARGUMENT"),
    "no target": (
        "Calibrate",
        messages.CalibrateRequest(
            k=1, mode=1, predictions=[messages.Predictions(dimension="arousal", values=[1.0])]
        ),
        "INVALID_ARGUMENT",
    ),
    "no mode": ("Calibrate", messages.CalibrateRequest(speaker_id="s001", k=1), "INVALID_ARGUMENT"),
    "no predictions": (
        "Calibrate",
        messages.CalibrateRequest(speaker_id="s001", k=1, mode=1),
        "INVALID_ARGUMENT",
    ),
    "predictions that are not finite": (
        "Calibrate",
        messages.CalibrateRequest(
            speaker_id="s001",
            k=1,
            mode=1,
            predictions=[messages.Predictions(dimension="arousal", values=[np.inf])],
        ),
        "INVALID_ARGUMENT",
    ),
    "a message that is too large": (
        "Search",
        search_request(exclude_ids=["x" * 1000] * 1100),
        "RESOURCE_EXHAUSTED",
    ),
    "a write of another encoder": (
        "Upsert",
        messages.UpsertRequest(
            encoder_fingerprint="another:1", speakers=[make_message("a", [1.0] * WIDTH)]
        ),
        "FAILED_PRECONDITION",
    ),
    "a calibration by another encoder": (
        "Calibrate",
        messages.CalibrateRequest(
            encoder_fingerprint="another:1",
            vector=messages.Vector(values=[1.0] * WIDTH),
            k=1,
            mode=1,
            predictions=predictions_of(1),
        ),
        "FAILED_PRECONDITION",
    ),
    "too many predictions": (
        "Calibrate",
        messages.CalibrateRequest(
            speaker_id="s001", k=1, mode=1, predictions=predictions_of(LIMITS.max_predictions + 1)
        ),
        "INVALID_ARGUMENT",
    ),
}


@pytest.mark.parametrize(("method", "request_", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused(stub: Any, method: str, request_: Any, code: str) -> None:
    """The status says whose fault it is, and the request has no effect."""
    assert code_of(getattr(stub, method), request_) == code
    assert stub.Describe(messages.DescribeRequest()).generation == 1


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(METHODS)), st.binary(max_size=200))
def test_no_bytes_bring_an_internal_error(server: Running, method: str, data: bytes) -> None:
    """Bytes sent to any method bring an answer, or a refusal that blames the request."""
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        if method in ("Upsert", "Delete"):
            data = data[:20]  # too short to name the encoder, or a speaker that is there
        assert code_of(call, data) in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["s001", "arousal", "valence", FINGERPRINT]))
FLOATS = st.one_of(st.floats(width=32), st.floats(-2, 2, width=32))
VECTORS = st.builds(
    lambda v: messages.Vector(values=v), st.lists(FLOATS, min_size=WIDTH - 1, max_size=WIDTH + 1)
)
PREDICTIONS = st.builds(
    lambda name, values: messages.Predictions(dimension=name, values=values),
    TEXT,
    st.lists(FLOATS, max_size=4),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_message_brings_an_internal_error(stub: Any, data: st.DataObject) -> None:
    """Fields of any value, right ones among them, bring an answer or a fitting refusal."""
    draw = data.draw
    k, fingerprint = draw(st.integers(0, 70)), draw(st.one_of(st.just(FINGERPRINT), TEXT))

    search = messages.SearchRequest(
        encoder_fingerprint=fingerprint,
        vectors=draw(st.lists(VECTORS, max_size=3)),
        k=k,
        exclude_ids=draw(st.lists(TEXT, max_size=70)),
        metadata_equals=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
    )

    target = draw(
        st.one_of(
            st.builds(lambda v: {"vector": v}, VECTORS),
            st.builds(lambda t: {"speaker_id": t}, TEXT),
        )
    )
    calibration = messages.CalibrateRequest(
        encoder_fingerprint=fingerprint,
        k=k,
        mode=draw(st.integers(0, 5)),
        predictions=draw(st.lists(PREDICTIONS, max_size=3)),
        exclude_ids=draw(st.lists(TEXT, max_size=3)),
        **target,
    )

    allowed = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
    assert code_of(stub.Search, search) in allowed
    assert code_of(stub.Calibrate, calibration) in allowed
    assert code_of(stub.Get, messages.GetRequest(id=draw(TEXT))) in allowed


def write_tokens(path: Path) -> str:
    path.write_text(f"# clients\nread reader {READ}\n\nwrite writer {WRITE}\n")
    path.chmod(0o600)
    return str(path)


def test_tokens_decide_who_may_do_what(tmp_path: Path) -> None:
    """Unknown tokens are refused, and readers cannot write."""
    tokens = write_tokens(tmp_path / "tokens")

    with (
        running_server(tmp_path, tokens=tokens) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        reader, writer = ((("authorization", f"Bearer {token}"),) for token in (READ, WRITE))
        describe = messages.DescribeRequest()

        assert code_of(stub.Describe, describe) == "UNAUTHENTICATED"
        for wrong in ("Bearer " + "x" * 20, READ, "Basic " + READ, f"Bearer {READ}x", "Bearer "):
            assert (
                code_of(stub.Describe, describe, metadata=(("authorization", wrong),))
                == "UNAUTHENTICATED"
            )
        assert code_of(stub.Describe, describe, metadata=reader + writer) == "UNAUTHENTICATED"
        assert code_of(stub.Describe, describe, metadata=reader) == "OK"

        for request, method in (
            (upsert_of("a"), stub.Upsert),
            (messages.DeleteRequest(ids=["s001"]), stub.Delete),
        ):
            assert code_of(method, request, metadata=reader) == "PERMISSION_DENIED"

        stream = stub.StreamSearch(iter([search_request()]), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code().name == "UNAUTHENTICATED"

        assert stub.Describe(describe, metadata=writer).generation == 1
        assert code_of(stub.Upsert, upsert_of("a"), metadata=writer) == "OK"


def test_a_token_that_is_taken_back_ends_open_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends at its next request; a token file that is no text changes nothing."""
    monkeypatch.setattr("actors.speaker_index.serving.access.LOOK_SECONDS", 0.0)
    tokens = tmp_path / "tokens"
    write_tokens(tokens)

    with (
        running_server(tmp_path, tokens=str(tokens)) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        requests: queue.Queue[messages.SearchRequest | None] = queue.Queue()
        stream = stub.StreamSearch(iter(requests.get, None), timeout=20, metadata=READER)

        for content in (tokens.read_bytes(), b"read other \xff\xfe" + b"x" * 20):
            tokens.write_bytes(content)
            requests.put(search_request())
            assert len(next(stream).results) == 1
        assert code_of(stub.Describe, messages.DescribeRequest(), metadata=READER) == "OK"

        tokens.write_text(f"read other {WRITE}\n")
        requests.put(search_request())
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code().name == "UNAUTHENTICATED"
        requests.put(None)


@pytest.mark.parametrize("method", [*METHODS, "StreamSearch"])
def test_nothing_is_read_of_those_without_a_token(tmp_path: Path, method: str) -> None:
    """Clients without a token are refused when they call, before their request has come."""
    tokens = write_tokens(tmp_path / "tokens")
    with (
        running_server(tmp_path, tokens=tokens) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        never = threading.Event()
        call = channel.stream_stream(f"/{SERVICE}/{method}")(iter(never.wait, None), timeout=20)

        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code().name == "UNAUTHENTICATED"
        never.set()


def test_more_calls_than_can_be_held_are_refused(tmp_path: Path) -> None:
    """With two calls at once a third is refused, and another succeeds once one is over."""
    with (
        running_server(tmp_path, max_calls=2) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        over = threading.Event()

        def one_and_wait() -> Iterator[messages.SearchRequest]:
            yield search_request()
            over.wait(20)

        streams = [stub.StreamSearch(one_and_wait(), timeout=20) for _ in range(2)]
        for stream in streams:
            next(stream)
        assert code_of(stub.Search, search_request()) == "RESOURCE_EXHAUSTED"

        over.set()
        assert [list(stream) for stream in streams] == [[], []]
        until(lambda: code_of(stub.Search, search_request()) == "OK")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_whose_answers_nobody_takes_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server ends the stream, and a client that goes on to read is told why."""
    options = {"idle_seconds": 0.5, "log_requests": "errors", "limits": Limits()}
    with (
        running_server(tmp_path, **options) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        call = stub.StreamSearch(iter([search_request(1500, k=40)] * 30), timeout=60)
        next(call)
        said = ""

        def is_logged() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return '"method": "StreamSearch"' in said

        until(is_logged)
        assert '"code": "DEADLINE_EXCEEDED"' in said
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code().name == "DEADLINE_EXCEEDED"


def test_a_stream_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    """No task is left of a stream that was canceled, nor of one that ended at a bad request."""
    with (
        running_server(tmp_path, limits=Limits()) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        stub.Search(search_request())
        before = running.num_tasks()

        many = [search_request(400, k=40)] * 60
        call = stub.StreamSearch(iter(many), timeout=60)
        next(call)
        call.cancel()

        refused = stub.StreamSearch(iter([many[0], search_request(k=0), *many]), timeout=60)
        with pytest.raises(grpc.RpcError):
            list(refused)
        assert refused.code().name == "INVALID_ARGUMENT"

        until(lambda: running.num_tasks() <= before)


def test_a_client_that_asks_too_often_waits(tmp_path: Path) -> None:
    """With two requests a second a third is refused, in calls as in a stream of another client."""
    tokens = write_tokens(tmp_path / "tokens")
    with (
        running_server(tmp_path, tokens=tokens, requests_per_second=2) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        reader, writer = ((("authorization", f"Bearer {token}"),) for token in (READ, WRITE))

        codes = [
            code_of(stub.Describe, messages.DescribeRequest(), metadata=reader) for _ in range(3)
        ]
        assert codes == ["OK", "OK", "RESOURCE_EXHAUSTED"]

        stream = stub.StreamSearch(iter([search_request()] * 9), timeout=20, metadata=writer)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code().name == "RESOURCE_EXHAUSTED"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


def channel_of(
    target: str, ca: str, cert: str | None = None, key: str | None = None
) -> grpc.Channel:
    parts = [None if path is None else Path(path).read_bytes() for path in (ca, key, cert)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts))


def test_only_clients_of_the_authority_get_in(authority: Authority, tmp_path: Path) -> None:
    """With mutual TLS only a client with a valid certificate of the authority gets in."""
    own, client, expired = (
        authority.sign("server"),
        authority.sign("client"),
        authority.sign("expired", days=-1),
    )

    other = Authority(tmp_path / "other", "other")
    stranger = other.sign("stranger")
    security = {"tls_cert": own.cert, "tls_key": own.key, "client_ca": authority.ca}

    with running_server(tmp_path / "server", **security) as running:
        channels = {
            "good": channel_of(running.target, authority.ca, client.cert, client.key),
            "expired": channel_of(running.target, authority.ca, expired.cert, expired.key),
            "another authority's client": channel_of(
                running.target, authority.ca, stranger.cert, stranger.key
            ),
            "no certificate": channel_of(running.target, authority.ca),
            "another authority for the server": channel_of(
                running.target, other.ca, client.cert, client.key
            ),
            "plain text": grpc.insecure_channel(running.target),
        }

        codes = {}
        for name, channel in channels.items():
            stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
            codes[name] = code_of(stub.Upsert, upsert_of(name.replace("'", "")), timeout=10)
            channel.close()

        assert codes == {name: "OK" if name == "good" else "UNAVAILABLE" for name in channels}
        assert running.index.generation.number == 2


def test_an_expired_server_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    """A client does not talk to a server whose certificate has expired."""
    expired = authority.sign("old-server", days=-1)
    with (
        running_server(tmp_path, tls_cert=expired.cert, tls_key=expired.key) as running,
        channel_of(running.target, authority.ca) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        assert code_of(stub.Describe, messages.DescribeRequest(), timeout=10) == "UNAVAILABLE"


def test_a_write_whose_time_is_over_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write for which the server has no time left has no effect."""
    monkeypatch.setattr(SpeakerServer, "_seconds_left", lambda *_: 0.0)
    with running_server(tmp_path) as running, grpc.insecure_channel(running.target) as channel:
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        assert code_of(stub.Upsert, upsert_of("late")) == "DEADLINE_EXCEEDED"
        assert running.index.generation.number == 1


def test_a_call_that_is_given_up_has_no_effect(tmp_path: Path) -> None:
    """A write ahead is slow, and those behind it are given up by a deadline and a cancellation."""
    with running_server(tmp_path) as running, grpc.insecure_channel(running.target) as channel:
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]
        held, let_go = threading.Event(), threading.Event()
        real = running.index._journal.append  # type: ignore[attr-defined]

        def slow(writes: Any) -> None:
            held.set()
            let_go.wait(20)
            real(writes)

        running.index._journal.append = slow  # type: ignore[attr-defined]
        first = stub.Upsert.future(upsert_of("first"), timeout=20)
        assert held.wait(20)
        second = stub.Upsert.future(upsert_of("second"), timeout=20)
        third = stub.Upsert.future(upsert_of("third"), timeout=0.3)

        with pytest.raises(grpc.RpcError):
            third.result()
        second.cancel()
        # Reads do not wait for writes.
        assert stub.Describe(messages.DescribeRequest()).generation == 1
        let_go.set()
        assert first.result().generation == 2
        assert stub.Upsert(upsert_of("fourth"), timeout=20).generation == 3
        assert [code_of(stub.Get, messages.GetRequest(id=n)) for n in ("second", "third")] == [
            "NOT_FOUND"
        ] * 2
        assert third.code().name == "DEADLINE_EXCEEDED"


def test_connections_that_say_nothing_do_not_keep_others_out(server: Running, stub: Any) -> None:
    """A hundred clients stop in their greeting or in a request, and another is still served."""
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(
                greeting[:10] if number % 2 else greeting + settings_frame + b"\x00\x10\x00\x00"
            )

        started = time.monotonic()
        assert code_of(stub.Search, search_request()) == "OK"
        assert time.monotonic() - started < 5
    finally:
        for connection in slow:
            connection.close()


def test_health_and_reflection_tell_what_is_served(tmp_path: Path) -> None:
    """Health says whether the index takes writes, and reflection names the service."""
    with (
        running_server(tmp_path, reflection=True) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)

        assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()

        running.index.failure = OSError("the disk is gone")
        deadline = time.monotonic() + 20
        while health.Check(request).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_metrics_count_what_was_asked(tmp_path: Path) -> None:
    """Prometheus reads requests by method and status, vectors, and the size of the index."""
    port = free_port()

    with (
        running_server(tmp_path, metrics_port=port) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]

        stub.Search(search_request(7))
        code_of(stub.Search, search_request(k=0))
        text = (
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        )

    assert 'emostream_requests_total{code="OK",method="Search"} 1.0' in text
    assert 'emostream_requests_total{code="INVALID_ARGUMENT",method="Search"} 1.0' in text
    assert 'emostream_items_total{method="Search"} 7.0' in text
    assert "emostream_speakers 40.0" in text


def test_the_log_says_who_asked_what_and_never_a_vector(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each request is a line of JSON with a harmless request id, and with no token or vector."""
    tokens = write_tokens(tmp_path / "tokens")

    with (
        running_server(tmp_path, tokens=tokens, log_requests="all") as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub: Any = SpeakerIndexStub(channel)  # type: ignore[no-untyped-call]

        metadata = (("authorization", f"Bearer {WRITE}"), ("x-request-id", "my-id"))
        stub.Search(search_request(3), metadata=metadata)
        stub.Upsert(upsert_of("anna"), metadata=metadata)
        code_of(stub.Get, messages.GetRequest(id="who\x1b[31m"), metadata=metadata)

    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [(line["method"], line["code"], line["client"], line["items"]) for line in lines] == [
        ("Search", "OK", "writer", 3),
        ("Upsert", "OK", "writer", 1),
        ("Get", "INVALID_ARGUMENT", "writer", 1),
    ]

    assert {line["request"] for line in lines} == {"my-id"}
    assert WRITE not in text
    assert "\x1b" not in text
    for number in make_vectors(3, 3).ravel()[:5]:
        assert f"{number:.4f}" not in text


def test_only_errors_are_logged_where_only_they_are_wanted() -> None:
    """`errors` leaves out the requests that went well, and `none` leaves out all."""
    served = Served("id", "Search", "me", "OK", 0.1, 1)
    for which, expected in (("errors", 0), ("none", 0)):
        log = RequestLog(which)  # type: ignore[arg-type]
        log.add(served)
        assert len(log._lines) == expected


def test_every_answer_is_of_one_whole_generation(tmp_path: Path) -> None:
    """Of five speakers that are always written together every answer shows one version."""
    index = open_store(
        str(tmp_path / "data"),
        write_table(tmp_path / "speakers.parquet", 30),
        IndexConfig(),
        min_unindexed=12,
    )
    names = [f"five-{number}" for number in range(5)]
    direction = make_vectors(1, 10_000_001)[0]
    versions: dict[int, float] = {}
    answers: list[list[messages.SearchResponse]] = []
    ended = threading.Event()

    def write(stub: Any) -> None:
        for version in range(1, NUM_VERSIONS + 1):
            labels = [
                messages.LabelStatistics(
                    dimension="arousal", mean=version, standard_deviation=0, count=1
                )
            ]
            speakers = [make_message(name, direction.tolist(), labels=labels) for name in names]

            speakers.append(
                make_message(f"other-{version % 40}", make_vectors(1, version)[0].tolist())
            )

            request = messages.UpsertRequest(encoder_fingerprint=FINGERPRINT, speakers=speakers)
            versions[stub.Upsert(request, timeout=20).generation] = float(version)

    def read(stub: Any) -> None:
        mine: list[messages.SearchResponse] = []
        request = search_request(vectors=[messages.Vector(values=direction.tolist())], k=5)
        while not ended.is_set():
            mine.append(stub.Search(request, timeout=20))
        answers.append(mine)

    with running_server(tmp_path, index=index) as running:
        channels = [grpc.insecure_channel(running.target) for _ in range(4)]
        stubs: list[Any] = [SpeakerIndexStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
        writer, *readers = [threading.Thread(target=write, args=(stubs[0],))] + [
            threading.Thread(target=read, args=(stub,)) for stub in stubs[1:]
        ]
        for thread in (writer, *readers):
            thread.start()

        writer.join(timeout=60)
        ended.set()
        for thread in readers:
            thread.join(timeout=30)
        for channel in channels:
            channel.close()

    assert len(versions) == NUM_VERSIONS
    assert len(answers) == 3

    for mine in answers:
        numbers = [answer.generation for answer in mine]
        assert numbers == sorted(numbers)
        for answer in mine:
            found = answer.results[0].neighbours
            if answer.generation > 1:
                assert {neighbor.id for neighbor in found} == set(names)
                assert {neighbor.labels[0].mean for neighbor in found} == {
                    versions[answer.generation]
                }

    # The index was built again meanwhile.
    assert running.index.generation.base.table.speakers[-1] != "s029"


def test_a_speaker_with_labels_is_not_calibrated_by_itself(stub: Any) -> None:
    """A speaker's own labels are not used for it, nor are those of excluded speakers."""
    predictions = [messages.Predictions(dimension="valence", values=[0.1, 0.5])]
    asked = {
        "speaker_id": "s003",
        "k": 50,
        "mode": messages.CALIBRATION_MODE_MU,
        "predictions": predictions,
    }

    answer = stub.Calibrate(messages.CalibrateRequest(**asked, exclude_ids=["s005"]))

    labeled = set(make_table(40).speakers[:-1])
    assert {neighbor.id for neighbor in answer.neighbours} == labeled - {"s003", "s005"}

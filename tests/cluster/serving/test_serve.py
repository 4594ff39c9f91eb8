"""`serve` and `lookup` as people run them, and the rules of the Python client."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.embedding.config import SPECTRAL_FINGERPRINT
from actors.embedding.embedders import SpectralEmbedder
from actors.inference.outcomes import Missing
from actors.speaker_index.serving.config import Limits, ServerConfig
from actors.speaker_index.serving.service import SpeakerService
from actors.speaker_index.storage.journal import StorageFailedError
from actors.speaker_index.storage.writes import Write
from cluster.cli import main
from cluster.serving.client import LabelStatistics, Speaker, SpeakerClient, SpeakerIndexError
from cluster.serving.config import ServeConfig
from cluster.serving.serve import run_serve
from shards.config import options_of
from shards.config_values import from_mapping, to_mapping
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.speakers.files import write_speakers
from shards.speakers.table import SpeakerTable
from tests import ROOT
from tests.actors.speaker_index.running_server import running_server
from tests.actors.speaker_index.speaker_world import FINGERPRINT, WIDTH, make_vectors, write_table
from tests.ports import free_port


@contextmanager
def serving(
    folder: Path, root: Path, *options: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a server process and yield its address; kill the process if it has not ended."""
    command = [
        sys.executable,
        "-m",
        "cluster",
        "serve",
        "--data",
        f"{folder}/data",
        "--port",
        "0",
        *options,
    ]

    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True)

    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving"), (folder / "server.log").read_text()
        yield process, f"localhost:{line.rpartition(':')[2].strip()}"
    finally:
        process.kill()
        process.wait(timeout=30)


def speaker(name: str, seed: int = 3) -> Speaker:
    labels = {"arousal": LabelStatistics(0.5, 0.25, 4)}
    return Speaker(
        id=name,
        vector=make_vectors(1, seed)[0],
        num_utterances=4,
        labels=labels,
        metadata={"sex": "male"},
    )


def test_what_was_acknowledged_survives_a_kill_and_a_term(tmp_path: Path) -> None:
    """Acknowledged writes survive SIGKILL and SIGTERM; SIGTERM ends with status 0."""
    table = write_table(tmp_path / "speakers.parquet", 6)
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        with serving(tmp_path, ROOT, "--speakers", table) as (process, target):
            with SpeakerClient(target, fingerprint=FINGERPRINT) as client:
                assert client.describe().num_speakers == 6 + number
                client.upsert([speaker(f"new-{number}")])

            process.send_signal(how)
            assert process.wait(timeout=30) == (-signal.SIGKILL if how == signal.SIGKILL else 0)

    with serving(tmp_path, ROOT, "--follow") as (_, target), SpeakerClient(target) as client:
        assert client.describe().num_speakers == 8
        found = client.get("new-1")
        assert found.labels == speaker("new-1").labels
        np.testing.assert_array_equal(found.vector, speaker("new-1").vector)

        with pytest.raises(
            SpeakerIndexError, match="FAILED_PRECONDITION: this replica only follows"
        ):
            client.delete(["new-1"])


def test_a_request_in_progress_is_answered_before_the_end(tmp_path: Path) -> None:
    """After SIGTERM, a stream that has begun is answered, and new calls are refused."""
    table = write_table(tmp_path / "speakers.parquet", 6)
    with serving(tmp_path, ROOT, "--speakers", table) as (process, target):
        asked, go_on = threading.Event(), threading.Event()

        def batches() -> Iterator[np.ndarray]:  # type: ignore[type-arg]
            yield make_vectors(2)
            asked.set()
            go_on.wait(20)
            yield make_vectors(3)

        with SpeakerClient(target, fingerprint=FINGERPRINT) as client:
            results = client.stream_search(batches(), 2)
            first = next(results)
            assert asked.wait(20)
            process.send_signal(signal.SIGTERM)
            with (
                SpeakerClient(target, timeout_seconds=3) as other,
                pytest.raises(SpeakerIndexError),
            ):
                ask_for_ever(other)
            go_on.set()
            assert len(next(results).neighbours) == 3
            assert len(first.neighbours) == 2
            assert list(results) == []
        assert process.wait(timeout=30) == 0


def ask_for_ever(client: SpeakerClient) -> None:
    while True:
        client.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--allow-plaintext where something else encrypts"),
        (["--tls-cert", "a.pem"], "give both or neither"),
        (["--client-ca", "a.pem"], "needs --tls-cert"),
        (["--follow"], "give a speaker table, or --follow"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["--set", "index.gpu=true"], "sees no GPU"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.key"], "cannot be read"),
        (["--tokens", "speakers.parquet"], "others may read or write it"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    """Unusable options give one line and exit status 2, before the server listens."""
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path / "speakers.parquet", 3)
    Path(table).chmod(0o644)

    assert (
        main(["serve", "--speakers", table, "--data", f"{tmp_path}/data", "--port", "0", *options])
        == 2
    )
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second server on a port is refused, because the two would share its clients."""
    table = write_table(tmp_path / "speakers.parquet", 3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert (
            main(["serve", "--speakers", table, "--data", f"{tmp_path}/data", "--port", port]) == 2
        )

    assert "cannot listen there" in capsys.readouterr().err


def voice(pitch: float, seed: int) -> "np.ndarray":  # type: ignore[type-arg]
    """Make a second of sound with a pitch and overtones."""
    rng = np.random.default_rng(seed)
    times = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = [np.sin(2 * np.pi * pitch * n * times + rng.uniform(0, 6)) / n for n in range(1, 20)]
    return (0.05 * np.sum(tones, axis=0) + 0.002 * rng.standard_normal(len(times))).astype(
        np.float32
    )


@pytest.fixture
def voices(tmp_path: Path) -> str:
    """A table of three voices, made by the embedder that needs no weights."""
    embedder = SpectralEmbedder()
    embedder.setup(1)
    rows = embedder.embed([voice(pitch, 0) for pitch in (110.0, 170.0, 250.0)], ["a", "b", "c"])
    vectors = np.stack([row for row in rows if not isinstance(row, Missing)])

    nothing = np.empty((3, 0))
    table = SpeakerTable(
        speakers=["low", "middle", "high"],
        vectors=vectors,
        num_utterances=np.ones(3, dtype=np.int64),
        dimensions=(),
        label_mean=nothing,
        label_std=nothing,
        label_count=nothing.astype(np.int64),
        metadata=[{}] * 3,
        encoder="spectral",
        fingerprint=SPECTRAL_FINGERPRINT,
    )

    path = tmp_path / "voices.parquet"
    write_speakers(str(path), table)
    return str(path)


def test_lookup_finds_a_voice_a_vector_and_a_speaker(
    voices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording goes through the index's own encoder; a speaker is not its own neighbor."""
    (tmp_path / "new.flac").write_bytes(encode_flac(voice(172.0, 5)))

    with serving(tmp_path, ROOT, "--speakers", voices) as (_, target):
        assert (
            main(["lookup", "--server", target, "--audio", f"{tmp_path}/new.flac", "-k", "2"]) == 0
        )
        assert capsys.readouterr().out.splitlines()[1].split()[0] == "middle"

        with SpeakerClient(target) as client:
            np.save(tmp_path / "vector.npy", client.get("high").vector)
        assert (
            main(["lookup", "--server", target, "--vector", f"{tmp_path}/vector.npy", "--json"])
            == 0
        )
        found = json.loads(capsys.readouterr().out)["neighbours"][0]
        assert (found[0]["id"], round(found[0]["similarity"], 5), len(found)) == ("high", 1.0, 3)

        assert main(["lookup", "--server", target, "--speaker", "high", "-k", "5", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["neighbours"][0]
        assert {neighbor["id"] for neighbor in found} == {"low", "middle"}

        assert main(["lookup", "--server", target, "--speaker", "nobody"]) == 4
        assert "NOT_FOUND: speaker 'nobody' is not in the index" in capsys.readouterr().err


def test_lookup_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault has its message: unknown encoder, unreadable input, no server, no token."""
    (tmp_path / "noise.flac").write_bytes(b"nothing")
    np.save(tmp_path / "two.npy", np.ones((2, WIDTH)))
    np.save(tmp_path / "one.npy", np.ones(WIDTH, dtype=np.float32))

    tokens = tmp_path / "tokens"
    tokens.write_text("read me a-token-of-my-own-12\n")
    tokens.chmod(0o600)

    with (
        running_server(tmp_path) as running,
        running_server(tmp_path / "closed", tokens=str(tokens)) as closed,
    ):
        lookup = ["lookup", "--server", running.target]
        for arguments, message in (
            (["--audio", f"{tmp_path}/noise.flac"], "the index was made with test-encoder"),
            (["--audio", f"{tmp_path}/noise.flac", "--encoder", "spectral"], "--audio: "),
            (["--vector", f"{tmp_path}/two.npy"], "expected one vector of floats"),
            (["--vector", f"{tmp_path}/noise.flac"], "cannot be read as .npy"),
            ([], "got none, expected one of --audio, --vector, --speaker"),
            (
                ["--speaker", "a", "--vector", "v.npy"],
                "got --vector and --speaker, expected one of",
            ),
            (
                ["--audio", f"{tmp_path}/none.flac", "--encoder", "spectral"],
                f"--audio {tmp_path}/none.flac: No such",
            ),
        ):
            assert main([*lookup, *arguments]) == 2
            assert message in capsys.readouterr().err

        one = ["--vector", f"{tmp_path}/one.npy"]
        assert main([*lookup, *one, "--fingerprint", "another:1"]) == 4
        assert "FAILED_PRECONDITION" in capsys.readouterr().err

        assert main(["lookup", "--server", closed.target, *one]) == 4
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        monkeypatch.setenv("EMOSTREAM_TOKEN", "a-token-of-my-own-12")
        assert main(["lookup", "--server", closed.target, *one]) == 0

    assert main(["lookup", "--server", "localhost:1", *one, "--timeout-seconds", "1"]) == 4
    said = capsys.readouterr().err
    assert "emostream lookup: localhost:1: DEADLINE_EXCEEDED" in said
    assert (
        "check that `emostream serve` runs at localhost:1, and that it does not ask for TLS "
        "(--tls-ca)" in said
    )

    assert main(["lookup", "--server", "localhost", *one]) == 2
    assert "--server: got localhost, expected HOST:PORT" in capsys.readouterr().err


def test_a_call_is_repeated_while_the_server_is_not_there_and_only_then(tmp_path: Path) -> None:
    """A client that asks before the server listens gets its answer; a refusal comes at once."""
    port = free_port()
    found: list[int] = []

    def ask() -> None:
        with SpeakerClient(f"127.0.0.1:{port}", timeout_seconds=20) as client:
            found.append(client.describe().num_speakers)

    early = threading.Thread(target=ask)
    early.start()
    with running_server(tmp_path, port=port) as running:
        early.join(timeout=30)
        assert found == [40]
        with SpeakerClient(running.target, fingerprint="wrong") as client:
            started = time.monotonic()
            with pytest.raises(SpeakerIndexError) as caught:
                client.search(make_vectors(1), 3)
            assert caught.value.code == "FAILED_PRECONDITION"
            assert time.monotonic() - started < 2


def test_a_write_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write is not repeated: nobody knows whether it was made, so the caller decides."""
    asked: list[Write] = []

    def submit(write: Write) -> None:
        asked.append(write)
        raise StorageFailedError("the disk did not take it")

    with (
        running_server(tmp_path) as running,
        SpeakerClient(running.target, fingerprint=FINGERPRINT) as client,
    ):
        monkeypatch.setattr(running.index, "submit", submit)
        for number, write in enumerate(
            (lambda: client.upsert([speaker("x")]), lambda: client.delete(["x"])), start=1
        ):
            with pytest.raises(SpeakerIndexError, match="UNAVAILABLE: the disk"):
                write()
            assert len(asked) == number


def test_the_client_speaks_the_whole_service(tmp_path: Path) -> None:
    """Search, streams, calibration and writes return typed results that agree with each other."""
    with (
        running_server(tmp_path) as running,
        SpeakerClient(running.target, fingerprint=FINGERPRINT) as client,
    ):
        assert client.upsert([speaker("x", 1), speaker("y", 2)]) == 2

        vectors = make_vectors(3, 1)
        result = client.search(vectors, 4, exclude=["s001"], metadata_equals={"sex": "male"})
        assert result.generation == 2
        assert [len(one) for one in result.neighbours] == [4, 4, 4]
        assert result.neighbours[0][0].id == "x"
        assert result.neighbours[0][0].labels["arousal"] == LabelStatistics(0.5, 0.25, 4)

        streamed = list(client.stream_search([vectors, vectors[:1]], 4))
        assert [len(one.neighbours) for one in streamed] == [3, 1]
        assert streamed[0].neighbours[0] == streamed[1].neighbours[0]

        calibrated = client.calibrate({"arousal": [0.0, 1.0]}, vector=vectors[0], k=1, mode="mu")
        assert [neighbor.id for neighbor in calibrated.neighbours] == ["x"]
        np.testing.assert_allclose(calibrated.predictions["arousal"], [0.0, 1.0])

        assert client.delete(["x", "nobody"]) == 1
        with pytest.raises(ValueError, match="either a vector or a speaker_id"):
            client.calibrate({"arousal": [1.0]})
    assert os.environ.get("EMOSTREAM_TOKEN") is None


def test_every_option_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of the command reaches the server, such as a certificate or a limit."""
    offered: list[tuple[SpeakerService, ServerConfig]] = []

    class StopHereError(Exception):
        pass

    def server(service: SpeakerService, config: ServerConfig) -> None:
        offered.append((service, config))
        raise StopHereError

    monkeypatch.setattr("actors.speaker_index.serving.server.SpeakerServer", server)
    given: dict[str, Any] = {
        "host": "::1",
        "port": 5000,
        "tls_cert": "cert.pem",
        "tls_key": "key.pem",
        "client_ca": "ca.pem",
        "tokens": "tokens",
        "requests_per_second": 3.0,
        "max_seconds": 4.0,
        "max_vectors": 7,
        "max_k": 5,
        "max_message_mib": 2,
        "allow_plaintext": True,
        "reflection": True,
        "log_requests": "errors",
        "metrics_port": 9,
    }
    table = write_table(tmp_path / "speakers.parquet", 3)
    with pytest.raises(StopHereError):
        run_serve(
            from_mapping(ServeConfig, {"speakers": table, "data": f"{tmp_path}/data"} | given)
        )
    ((service, config),) = offered
    service.close()

    reached = to_mapping(config)
    assert {name: reached[name] for name in given} == given
    assert config.limits.max_message_bytes == 2 << 20
    assert service._limits == Limits(max_vectors=7, max_k=5)
    # Why: an option that is added later must be tried here too.
    assert options_of(ServerConfig).keys() & options_of(ServeConfig).keys() == given.keys()

"""Replicas on Ray Serve answer as one, follow one writer, and survive the death of any of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from actors.speaker_index.serving.config import ReplicaConfig
from cluster.cli import main
from cluster.serving.client import SpeakerClient, SpeakerIndexError
from cluster.serving.config import ServeConfig
from cluster.serving.on_ray import _application
from shards.config_values import from_mapping
from tests import ROOT
from tests.actors.speaker_index.speaker_world import FINGERPRINT, make_vectors, write_table
from tests.cluster.serving.test_serve import speaker
from tests.ports import free_port

REPLICA, WRITER = "SpeakerReplica", "SpeakerWriter"
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RoomyCluster:
    """A Ray cluster that counts four CPUs, and the process of its raylet."""

    address: str
    raylet: int

    def processes_of(self, deployment: str) -> list[psutil.Process]:
        """Return the live processes of a deployment; Ray puts its name into their titles."""
        title = f"ray::ServeReplica:speakers:{deployment}"
        mine = psutil.Process(self.raylet).children(recursive=True)
        return [process for process in mine if _title(process).startswith(title)]


def _title(process: psutil.Process) -> str:
    """Return the title of a process, empty for one that has just died, as after a kill."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # raised for a zombie too
        return ""


@pytest.fixture(scope="module")
def roomy_cluster() -> Iterator[RoomyCluster]:
    import ray
    from ray.cluster_utils import Cluster

    # Why without a token: the cluster is thrown away, and listens on loopback only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 128 * 2**20}
    )
    yield RoomyCluster(cluster.address, cluster.head_node.all_processes["raylet"][0].process.pid)
    ray.shutdown()
    cluster.shutdown()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_replicas_follow_one_writer_and_survive_deaths(
    roomy_cluster: RoomyCluster, tmp_path: Path
) -> None:
    """A write shows on both replicas.

    When a replica and then the writer are killed, reads go on and no write is lost.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "cluster",
        "serve",
        "--speakers",
        write_table(tmp_path / "s.parquet", 40),
    ]
    command += [
        "--data",
        str(tmp_path / "data"),
        "--replicas",
        "2",
        "--address",
        roomy_cluster.address,
        "--port",
        str(port),
    ]
    command += ["--http-port", str(free_port()), "--allow-plaintext"]

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)

    try:
        assert process.stdout is not None
        until(
            lambda: process.stdout.readline().startswith("serving 2 replicas"), "not served in time"
        )  # type: ignore[union-attr]

        with SpeakerClient(
            f"127.0.0.1:{port}", fingerprint=FINGERPRINT, timeout_seconds=20
        ) as client:
            written = client.upsert([speaker("first")])
            until(
                lambda: all(client.describe().generation == written for _ in range(8)),
                "a replica does not follow",
            )

            with pytest.raises(SpeakerIndexError, match="INVALID_ARGUMENT: k: got 0"):
                client.search(make_vectors(1), 0)
            with pytest.raises(SpeakerIndexError, match="INVALID_ARGUMENT: id: speaker is"):
                client.delete(["a\nb"])
            assert [
                len(one.neighbours)
                for one in client.stream_search([make_vectors(2), make_vectors(3)], 2)
            ] == [
                2,
                3,
            ]

            roomy_cluster.processes_of(REPLICA)[0].kill()
            assert client.get("first").id == "first"

            roomy_cluster.processes_of(WRITER)[0].kill()
            assert client.describe().generation >= written
            until(lambda: can_write(client), "no writer was started again")
            until(
                lambda: all(client.describe().num_speakers == 42 for _ in range(8)),
                "a write was lost",
            )
            assert client.get("first").id == "first"

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait(timeout=30)


def can_write(client: SpeakerClient) -> bool:
    try:
        return client.upsert([speaker("second", 5)]) > 0
    except SpeakerIndexError:
        return False


def test_a_limit_is_that_of_all_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica grants its share of the requests, and has the full limit of a message."""
    found: list[ReplicaConfig] = []
    monkeypatch.setattr(
        "actors.speaker_index.serving.replica_actor.speaker_application",
        lambda config, _: found.append(config),
    )

    options = {
        "speakers": "s.parquet",
        "data": str(tmp_path),
        "replicas": 4,
        "allow_plaintext": True,
    }
    _application(
        from_mapping(ServeConfig, options | {"requests_per_second": 10.0, "max_message_mib": 2})
    )

    assert (found[0].callers.requests_per_second, found[0].limits.max_message_bytes) == (
        2.5,
        2 << 20,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --allow-plaintext"),
        (["--allow-plaintext", "--tls-cert", "a", "--tls-key", "b"], "have no TLS"),
        (["--allow-plaintext", "--replicas", "-1"], "expected 0 or more"),
        (
            ["--allow-plaintext", "--host", "0.0.0.0", "--metrics-port", "9"],
            "--host, --metrics-port would have no effect",
        ),
        (["--allow-plaintext", "--log-requests", "none"], "--log-requests would have no effect"),
        (["--allow-plaintext", "--drain-seconds", "3"], "--drain-seconds would have no effect"),
    ],
)
def test_what_replicas_cannot_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """An option that replicas cannot follow is refused before Ray is started."""
    table = write_table(tmp_path / "speakers.parquet", 3)
    command = ["serve", "--speakers", table, "--data", f"{tmp_path}/data", "--replicas", "1"]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err

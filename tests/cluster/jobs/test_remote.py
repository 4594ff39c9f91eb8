"""The whole way on a local S3 server, and as a job submitted to a cluster with a token."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from tests import ROOT
from tests.ports import free_port
from tests.worlds.small import SmallWorld

BUCKET = "corpus"
START_TIMEOUT_SECONDS = 120.0
STARTING = ("Failed to connect", "Connection refused", "No available agent")


@pytest.fixture
def s3_environment() -> Iterator[dict[str, str]]:
    """An S3 server on loopback, and the environment that points programs to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()

    _, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    server.stop()


def run(
    command: list[str], folder: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def emostream(
    arguments: list[str], root: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return run([sys.executable, "-m", "cluster", *arguments], root, environment)


@pytest.mark.slow
def test_label_select_and_pack_on_s3(
    small_world: SmallWorld, s3_environment: dict[str, str], tmp_path: Path
) -> None:
    """Label, select and pack in a bucket give the tables that a local run gives."""
    import s3fs

    filesystem = s3fs.S3FileSystem(
        key="test",
        secret="test",
        endpoint_url=s3_environment["AWS_ENDPOINT_URL"],
        skip_instance_cache=True,
    )
    filesystem.mkdir(BUCKET)
    filesystem.put(
        [str(path) for path in sorted(small_world.shards.glob("*.tar"))], f"{BUCKET}/shards/"
    )

    shards, predictions = f"s3://{BUCKET}/shards/*.tar", f"s3://{BUCKET}/predictions"
    label = [
        "label",
        "--shards",
        shards,
        "--out",
        predictions,
        "--panel",
        str(small_world.panel),
        "--num-labelers",
        "2",
    ]
    first = emostream(label, ROOT, s3_environment)
    assert first.returncode == 0, first.stderr

    again = emostream(label, ROOT, s3_environment)
    assert "0 labeled now, 8 before" in again.stdout, again.stdout + again.stderr

    local = [
        "label",
        "--shards",
        small_world.glob,
        "--out",
        str(tmp_path / "local"),
        "--panel",
        str(small_world.panel),
    ]
    assert emostream(local, ROOT, {}).returncode == 0
    filesystem.get(f"{BUCKET}/predictions/", str(tmp_path / "remote"), recursive=True)
    assert rows_of(tmp_path / "remote") == rows_of(tmp_path / "local")

    selection = f"s3://{BUCKET}/selection"
    select = [
        "select",
        "--predictions",
        predictions,
        "--out",
        selection,
        "--teachers",
        "text,vision",
    ]
    rule = [
        "--threshold",
        "100",
        "--min-per-speaker",
        "1",
        "--set",
        "classes=" + ",".join(small_classes()),
    ]

    chosen = emostream([*select, *rule], ROOT, s3_environment)
    assert chosen.returncode == 0, chosen.stderr

    pack = ["pack", "--shards", shards, "--selection", selection, "--out", f"s3://{BUCKET}/packed"]
    packed = emostream(pack, ROOT, s3_environment)
    assert packed.returncode == 0, packed.stderr

    summary = json.loads(filesystem.cat(f"{BUCKET}/selection/summary.json"))
    assert summary["num_kept"] == small_world.num_utterances
    assert any(name.endswith(".tar") for name in filesystem.ls(f"{BUCKET}/packed", detail=False))


def rows_of(folder: Path) -> list[dict[str, object]]:
    rows = [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: str(row["key"]))


def small_classes() -> tuple[str, ...]:
    from shards.emotions import EMOTIONS

    return EMOTIONS


@pytest.fixture
def cluster_with_token(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a head node with a dashboard that requires a token.

    Yields the address for jobs, and the environment that reaches it.
    """
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    start = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
    ]
    start += [
        f"--dashboard-port={dashboard}",
        # Why: another test's Ray may have taken the usual port.
        f"--dashboard-agent-listen-port={agent}",
        "--include-dashboard=true",
        f"--temp-dir=/tmp/ray-{secrets.token_hex(4)}",
    ]
    start += [f"--object-store-memory={256 * 2**20}"]

    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(
            start, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )

    try:
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_submitted_to_a_cluster_with_a_token(
    small_world: SmallWorld,
    cluster_with_token: tuple[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    """A submitted labeling job runs from the uploaded packages, and only with the token."""
    address, environment = cluster_with_token
    working_dir = tmp_path / "checkout"
    for package in ("shards", "trainers", "actors", "cluster", "protos"):
        shutil.copytree(
            ROOT / package, working_dir / package, ignore=shutil.ignore_patterns("__pycache__")
        )

    out = tmp_path / "out"
    submit = [
        str(Path(sys.executable).with_name("ray")),
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
    ]
    job = [
        "--",
        sys.executable,
        "-m",
        "cluster",
        "label",
        "--shards",
        small_world.glob,
        "--out",
        str(out),
    ]
    job += ["--panel", str(small_world.panel)]

    answer = submit_when_ready([*submit, *job], working_dir, environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert len(list(out.glob("*.parquet"))) == 8
    assert (
        json.loads((out / "label-summary.json").read_text())["num_utterances"]
        == small_world.num_utterances
    )
    stranger = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    assert run([*submit, *job], working_dir, stranger).returncode != 0


def submit_when_ready(
    command: list[str], working_dir: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Submit a job, and try again while the head is still starting."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        answer = run(command, working_dir, environment)
        starting = any(words in answer.stderr for words in STARTING)
        if not starting or time.monotonic() > deadline:
            return answer
        time.sleep(1.0)

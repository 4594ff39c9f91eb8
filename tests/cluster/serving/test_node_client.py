"""A foreign client: Node with @grpc/grpc-js, made from the .proto alone.

Its tests are skipped where there is no Node or npm.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.serving.client import SpeakerClient
from tests import ROOT
from tests.actors.speaker_index.running_server import Running, running_server
from tests.actors.speaker_index.speaker_world import FINGERPRINT

NODE, NPM = shutil.which("node"), shutil.which("npm")
CLIENT = Path(__file__).resolve().parent / "node_client"
pytestmark = pytest.mark.skipif(not (NODE and NPM), reason="needs node and npm on the PATH")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with the packages that its lock file names."""
    folder = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules"))

    command = [str(NPM), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )

    if done.returncode and "ENOTFOUND" in done.stderr + done.stdout:
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stderr

    return folder


def ask(client: Path, running: Running, *more: str) -> "subprocess.CompletedProcess[str]":
    proto = ROOT / "protos" / "speaker_index.proto"
    command = [str(NODE), "client.mjs", running.target, str(proto), "s003", *more]
    return subprocess.run(
        command, cwd=client, capture_output=True, text=True, timeout=60, check=False
    )


def test_node_finds_and_calibrates_as_python_does(client: Path, tmp_path: Path) -> None:
    """Node gets the neighbors, similarities, labels and calibrated predictions that Python gets."""
    with (
        running_server(tmp_path) as running,
        SpeakerClient(running.target, fingerprint=FINGERPRINT) as python,
    ):
        done = ask(client, running)
        assert done.returncode == 0, done.stderr

        found = json.loads(done.stdout)
        assert found["description"]["num_speakers"] == python.describe().num_speakers == 40

        expected = python.search(python.get("s003").vector, 3, exclude=["s003"]).neighbours[0]
        neighbors = found["search"]["results"][0]["neighbours"]
        assert [(n["id"], n["similarity"]) for n in neighbors] == [
            (n.id, n.similarity) for n in expected
        ]
        assert [len(n["labels"]) for n in neighbors] == [len(n.labels) for n in expected]

        calibrated = python.calibrate({"arousal": [0.1, 0.5, 0.9]}, speaker_id="s003", k=3)
        assert (
            found["calibration"]["calibrated"][0]["values"]
            == calibrated.predictions["arousal"].tolist()
        )


def test_node_is_told_why_it_is_refused(client: Path, tmp_path: Path) -> None:
    """A refusal reaches Node with its status and its text."""
    tokens = tmp_path / "tokens"
    tokens.write_text("read node a-token-for-node-only\n")
    tokens.chmod(0o600)
    with running_server(tmp_path, tokens=str(tokens)) as running:
        refused = ask(client, running)
        assert refused.returncode == 1
        assert "UNAUTHENTICATED: got no bearer token" in refused.stderr
        assert ask(client, running, "a-token-for-node-only").returncode == 0

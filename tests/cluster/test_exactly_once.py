"""Exactly once: whatever is killed, and whenever, the tables end up as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.label import EXIT_UNFINISHED
from tests.small_world import SmallWorld

NUM_KILLS = 20
TIME_LIMIT_SECONDS = 280.0
POLL_SECONDS = 0.05
# A driver costs a new start of everything, so there are fewer of those.
VICTIMS = ("reader", "labeler", "reader", "driver", "labeler")
PROCESS_TITLES = {"reader": "ray::ReaderActor", "labeler": "ray::LabelerActor"}


def start_driver(world: SmallWorld, out: Path, address: str, root: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cluster", "label", "--shards", world.glob, "--out", str(out)]
    command += ["--panel", str(world.panel), "--address", address, "--num-labelers", "2", "--set", "max_attempts=50"]
    with (out.parent / "driver.log").open("ab") as log:
        return subprocess.Popen(command, cwd=root, stdout=log, stderr=log)


def victims(kind: str, driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Live processes of that kind; Ray writes the actor's class into the process title."""
    if kind == "driver":
        return [psutil.Process(driver.pid)]
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith(PROCESS_TITLES[kind]):
            found.append(process)
    return found


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def label_undisturbed(world: SmallWorld, out: Path, address: str, root: Path) -> dict[str, bytes]:
    assert start_driver(world, out, address, root).wait(timeout=120) == 0
    return tables(out)


@pytest.mark.timeout(400)
def test_kills_leave_no_trace(small_world: SmallWorld, ray_address: str, project_root: Path, tmp_path: Path) -> None:
    """Readers, labelers and drivers die by SIGKILL at random moments; the tables equal an undisturbed run's."""
    expected = label_undisturbed(small_world, tmp_path / "expected", ray_address, project_root)
    assert len(expected) == len(list(small_world.shards.glob("*.tar")))
    choice = random.Random(7)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    kills: dict[str, int] = {}
    rounds = 0
    while sum(kills.values()) < NUM_KILLS:
        rounds += 1
        out = tmp_path / f"round-{rounds}"
        driver = start_driver(small_world, out, ray_address, project_root)
        while (status := driver.poll()) != 0:
            assert time.monotonic() < deadline, f"not finished in time; kills so far: {kills}"
            if status is not None:
                assert status in (-signal.SIGKILL, EXIT_UNFINISHED)
                driver = start_driver(small_world, out, ray_address, project_root)
            if sum(kills.values()) < NUM_KILLS:
                kind = VICTIMS[sum(kills.values()) % len(VICTIMS)]
                if strike(kind, driver, choice):
                    kills[kind] = kills.get(kind, 0) + 1
            else:
                time.sleep(POLL_SECONDS)
        assert tables(out) == expected
    assert min(kills.get(kind, 0) for kind in ("reader", "labeler", "driver")) >= 4


def strike(kind: str, driver: "subprocess.Popen[bytes]", choice: random.Random) -> bool:
    """Wait until a victim lives, then a random moment, then kill it; False when the driver finished first."""
    found: list[psutil.Process] = []
    while not found:
        if driver.poll() is not None:
            return False
        # A driver is worth killing only once its labelers are at work.
        found = victims(kind, driver) if kind != "driver" or victims("reader", driver) else []
        time.sleep(POLL_SECONDS)
    time.sleep(choice.uniform(0.0, 0.6))
    victim = choice.choice(found)
    if not victim.is_running():
        return False
    victim.kill()
    if kind == "driver":
        driver.wait(timeout=30)
    return True

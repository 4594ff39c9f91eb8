"""Exactly once: whatever is killed, and whenever, the tables end up as if nothing had happened."""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from cluster.exit_status import ExitStatus
from tests import ROOT
from tests.worlds.small import SmallWorld, make_small_world

NUM_SHARDS = 40
PER_SHARD = 24
TIME_LIMIT_SECONDS = 600.0
POLL_SECONDS = 0.02
# Killed in this order, spread over the tables. There are few drivers, because each costs a new
# start of everything.
VICTIMS = (
    *["reader", "labeler", "reader", "reader", "driver"],
    *["reader", "reader", "labeler", "reader", "reader"],
) * 2
PROCESS_TITLES = {"reader": "ray::ReaderActor", "labeler": "ray::LabelerActor"}


@pytest.fixture(scope="module")
def long_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """A corpus with shards enough that workers can be killed in the middle of a run."""
    return make_small_world(
        tmp_path_factory.mktemp("long-world"), num_shards=NUM_SHARDS, per_shard=PER_SHARD
    )


def start_driver(
    world: SmallWorld, out: Path, address: str, root: Path
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cluster", "label", "--shards", world.glob, "--out", str(out)]
    command += [
        "--panel",
        str(world.panel),
        "--address",
        address,
        "--num-labelers",
        "2",
        "--set",
        "max_attempts=50",
    ]

    with (out.parent / "driver.log").open("ab") as log:
        return subprocess.Popen(command, cwd=root, stdout=log, stderr=log)


def live(kind: str, driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return the live processes of a kind below this test's own cluster.

    Ray writes the class of an actor into the title of its process.
    """
    if kind == "driver":
        return [psutil.Process(driver.pid)]
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline() and process.cmdline()[0].startswith(PROCESS_TITLES[kind]):
                found.append(process)
    return found


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def label_undisturbed(world: SmallWorld, out: Path, address: str, root: Path) -> dict[str, bytes]:
    assert start_driver(world, out, address, root).wait(timeout=120) == 0
    return tables(out)


@pytest.mark.slow
@pytest.mark.timeout(720)
def test_kills_leave_no_trace(long_world: SmallWorld, ray_address: str, tmp_path: Path) -> None:
    """Twenty kills of readers, labelers and drivers leave the tables of an undisturbed run."""
    expected = label_undisturbed(long_world, tmp_path / "expected", ray_address, ROOT)
    assert len(expected) == NUM_SHARDS

    choice = random.Random(7)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS

    struck = rounds = 0
    # Why a loop: a fast machine finishes a run before all victims are killed.
    while struck < len(VICTIMS):
        rounds += 1
        out = tmp_path / f"disturbed-{rounds}"
        struck += label_disturbed(
            VICTIMS[struck:], long_world, out, ray_address, ROOT, choice, deadline
        )
        assert tables(out) == expected


def label_disturbed(
    victims: Sequence[str],
    world: SmallWorld,
    out: Path,
    address: str,
    root: Path,
    choice: random.Random,
    deadline: float,
) -> int:
    """Label everything in a new folder, and kill the victims one after another.

    Returns how many of them died when some tables were written, but not all.
    """
    struck = 0
    marks = [
        0.5 * NUM_SHARDS * (place + choice.random()) / len(victims) for place in range(len(victims))
    ]

    driver = start_driver(world, out, address, root)
    while (status := driver.poll()) != 0:
        assert time.monotonic() < deadline, f"not finished in time; struck in this run: {struck}"
        if status is not None:
            assert status in (-signal.SIGKILL, ExitStatus.UNFINISHED)
            driver = start_driver(world, out, address, root)

        due = struck < len(victims) and num_tables(out) >= marks[struck]
        if due and strike(victims[struck], driver, choice) and 0 < num_tables(out) < NUM_SHARDS:
            struck += 1

        time.sleep(POLL_SECONDS)

    return struck


def num_tables(out: Path) -> int:
    return len(list(out.glob("*.parquet")))


def strike(kind: str, driver: "subprocess.Popen[bytes]", choice: random.Random) -> bool:
    """Kill one process of a kind at a random moment; return False when there is none just now."""
    time.sleep(choice.uniform(0.2, 0.8))
    found = live(kind, driver)
    if not found or driver.poll() is not None:
        return False
    choice.choice(found).kill()
    if kind == "driver":
        driver.wait(timeout=30)
    return True

"""Checks of the machine: storage, memory, shared memory, file descriptors, processor.

The limits are what a labeling job was seen to need: about 400 MB for each process with torch, tens
of megabytes of object store for each labeler, and some hundred descriptors for each node of the
cluster.
"""

import math
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.doctor.finding import Finding
from shards.config import ConfigError
from shards.storage.files import is_remote, make_directory, probe

PROBE_BYTES = 1 << 20
MIN_FREE_MEMORY_BYTES = 2 << 30
MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_DESCRIPTORS, GOOD_DESCRIPTORS = 1024, 8192
MIN_CPUS = 2
# Protocol -> extra of this distribution.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def check_storage(url: str | None) -> Iterator[Finding]:
    """Write a probe under `url`, or in a temporary folder, read it back and delete it."""
    with _folder(url) as folder:
        try:
            make_directory(folder)
            probe(folder, PROBE_BYTES)
        except ConfigError as error:  # no library knows this scheme
            yield Finding(
                "storage",
                "problem",
                f"{folder}: {error.__cause__ or error}",
                _missing_filesystem(folder),
            )
        except Exception as error:  # noqa: BLE001 (every storage provider has error classes of its own)
            detail = f"{folder}: {type(error).__name__}: {error}"
            yield Finding("storage", "problem", detail, _storage_remedy(folder))
        else:
            yield Finding(
                "storage", "ok", f"{folder}: a probe of 1 MiB was written, read back and deleted"
            )


@contextmanager
def _folder(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="emostream-doctor-") as folder:
        yield folder


def _missing_filesystem(url: str) -> str:
    protocol = url.partition("://")[0]
    if protocol in _EXTRAS:
        return f"pip install 'emostream[{_EXTRAS[protocol]}]'"
    return f"install the fsspec file system for {protocol}://, see https://filesystem-spec.readthedocs.io"


def _storage_remedy(folder: str) -> str:
    if not is_remote(folder):
        return (
            f"mkdir -p '{folder}' && touch '{folder}/probe'  # as the user who runs the job; is "
            "the disk full?"
        )

    if folder.startswith("s3"):
        return (
            f"aws s3 ls {folder}  # and check AWS_PROFILE or AWS_ACCESS_KEY_ID, and "
            "AWS_ENDPOINT_URL"
        )

    return "check this machine's credentials for the provider, and the address"


def check_memory() -> Iterator[Finding]:
    """Check how much memory is free, within this container's limit where it has one."""
    free, total = free_memory_bytes()
    detail = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB"

    if free < MIN_FREE_MEMORY_BYTES:
        remedy = (
            "end other programs (ps aux --sort=-rss | head), or run with --num-labelers 1 "
            "--num-readers 1"
        )
        yield Finding(
            "memory", "warning", f"{detail}; a labeler with its readers needs about 2 GiB", remedy
        )
    else:
        yield Finding("memory", "ok", detail)


def free_memory_bytes(control_group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Return (free, total) bytes of the machine, or of the control group where that has less."""
    machine = psutil.virtual_memory()
    try:
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
    except (OSError, ValueError):  # no version 2 control group here, or no limit ("max")
        return machine.available, machine.total
    return min(machine.available, max(limit - used, 0)), min(machine.total, limit)


def check_shared_memory(path: str = "/dev/shm") -> Iterator[Finding]:  # noqa: S108 (where Ray keeps its object store)
    """Check the shared memory, where Ray keeps its object store.

    When it is too small, Ray keeps the object store on disk.
    """
    try:
        free = psutil.disk_usage(path).free
    except OSError:
        return  # this system has no shared memory folder

    if free < MIN_SHARED_MEMORY_BYTES:
        detail = f"{path} has {free / 2**20:.0f} MiB free; Ray falls back to disk, which is slow"
        yield Finding(
            "shared memory",
            "warning",
            detail,
            "docker run --shm-size=4g ...  # or mount -o remount,size=4g /dev/shm",
        )
    else:
        yield Finding("shared memory", "ok", f"{path} has {free / 2**30:.1f} GiB free")


def check_files() -> Iterator[Finding]:
    """Check how many files a process may open at once: Ray opens a socket to every worker."""
    soft, hard = (
        math.inf if n == resource.RLIM_INFINITY else n
        for n in resource.getrlimit(resource.RLIMIT_NOFILE)
    )

    detail = "no limit on open files" if soft == math.inf else f"{soft:,} open files allowed"
    remedy = f"ulimit -n {min(hard, GOOD_DESCRIPTORS)}"

    if soft < MIN_DESCRIPTORS:
        yield Finding("open files", "problem", f"{detail}; Ray needs {MIN_DESCRIPTORS:,}", remedy)
    elif soft < min(hard, GOOD_DESCRIPTORS):
        detail = f"{detail}; enough for one machine, not for the head of a cluster"
        yield Finding("open files", "warning", detail, remedy)
    else:
        yield Finding("open files", "ok", detail)


def check_cpu() -> Iterator[Finding]:
    """Check the cores of this process, and the instructions that make bfloat16 fast on a CPU."""
    cores, flags = _num_cores(), _cpu_flags()
    fast = [
        name
        for flag, name in (("avx512_bf16", "AVX512_BF16"), ("amx_bf16", "AMX"))
        if flag in flags
    ]

    detail = (
        f"{cores} cores; bfloat16 instructions: "
        f"{', '.join(fast) or 'none, labeling on the CPU runs in float32'}"
    )

    if cores < MIN_CPUS:
        yield Finding(
            "cpu",
            "warning",
            detail,
            "give the machine or container at least 2 cores; reading and labeling share one here",
        )
    else:
        yield Finding("cpu", "ok", detail)


def _num_cores() -> int:
    """Return the number of cores of this process; only Linux tells it apart from the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()

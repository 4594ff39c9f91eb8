"""The doctor finds what is wrong, names a remedy, and goes on to the next check."""

import importlib.metadata
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cluster.cli import main
from cluster.doctor import examine as doctor
from cluster.doctor import machine as doctor_machine
from cluster.doctor import software as doctor_software
from cluster.doctor.examine import DoctorConfig, Finding, examine, run_doctor
from cluster.doctor.machine import (
    check_files,
    check_shared_memory,
    check_storage,
    free_memory_bytes,
)
from cluster.doctor.ray_cluster import check_ray
from cluster.doctor.software import (
    CODECS,
    check_codecs,
    check_gpu,
    check_packages,
    check_python,
    encode_tone,
)
from shards.config import ConfigError
from shards.media.audio import decode_audio
from shards.media.sound_format import SAMPLE_RATE_HZ


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_this_machine_is_examined_whole() -> None:
    """Every check reports, and every finding that is not `ok` comes with a remedy."""
    findings = examine(DoctorConfig())
    names = {finding.name for finding in findings}

    assert {
        "python",
        "torch",
        "ray",
        "codecs",
        "faces",
        "storage",
        "memory",
        "open files",
        "cpu",
    } <= names
    assert all(bool(finding.remedy) == (finding.status != "ok") for finding in findings)


@pytest.mark.parametrize(
    ("status", "remedy"), [("ok", "do this"), ("problem", ""), ("warning", "")]
)
def test_a_fault_without_a_remedy_cannot_be_made(status: doctor.Status, remedy: str) -> None:
    """A finding refuses a fault without a remedy, and a remedy without a fault."""
    with pytest.raises(ValueError, match="remedy"):
        Finding("name", status, "detail", remedy)


def test_command_fails_on_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Storage that cannot be written gives exit status 1, and is printed with its remedy."""
    (tmp_path / "file").write_text("in the way")
    assert main(["doctor", "--storage", str(tmp_path / "file" / "folder")]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM  storage" in printed
    assert "-> mkdir -p" in printed


def test_command_succeeds_with_warnings_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings alone give exit status 0: a machine without a GPU can run the demo."""
    findings = [Finding("gpu", "warning", "none", "add one"), Finding("cpu", "ok", "2 cores")]
    monkeypatch.setattr(doctor, "examine", lambda _config: findings)
    assert run_doctor(DoctorConfig()) == 0
    assert capsys.readouterr().out.endswith("1 ok, 1 warnings, 0 problems\n")


@pytest.mark.parametrize("extension", CODECS)
def test_tones_are_what_they_claim(extension: str) -> None:
    """Each tone decodes to half a second whose strongest frequency is 440 Hz."""
    samples = decode_audio(encode_tone(*CODECS[extension]))
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(0.5, abs=0.15)
    middle = samples[2000:6000] * np.hanning(4000)
    strongest_hz = np.argmax(np.abs(np.fft.rfft(middle))) * SAMPLE_RATE_HZ / 4000
    assert strongest_hz == pytest.approx(440, abs=8)


def test_a_codec_that_is_gone_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing encoder is a warning, and the other formats are still checked."""
    monkeypatch.setitem(CODECS, "mp3", ("mp3", "no_such_encoder", SAMPLE_RATE_HZ))
    working, gone = check_codecs()
    assert (working.status, gone.status) == ("ok", "warning")
    assert "mp3" not in working.detail
    assert "no_such_encoder" in gone.detail


def test_a_format_that_cannot_be_read_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format whose bytes do not decode is a problem that names the format."""
    real = encode_tone

    def damaged(*codec: Any) -> bytes:
        return b"not sound" if codec[0] == "wav" else real(*codec)

    monkeypatch.setattr(doctor_software, "encode_tone", damaged)
    problem = [finding for finding in check_codecs() if finding.status == "problem"]
    assert [finding.detail.split()[0] for finding in problem] == ["wav"]


def test_packages_are_compared_with_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package and an old one are problems, with the requirement itself as remedy.

    Packages of extras are not required.
    """
    required = [
        "numpy>=9999",
        "no-such-package>=1.2",
        "pyarrow>=1",
        "absent; extra == 's3'",
        "old; python_version<'3'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: required)

    findings = list(check_packages())
    assert [(finding.name, finding.status) for finding in findings] == [
        ("numpy", "problem"),
        ("no-such-package", "problem"),
    ]
    assert findings[1].remedy == "pip install 'no-such-package>=1.2'"


def test_a_checkout_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the installed distribution, its requirements are unknown: a warning, no crash."""
    monkeypatch.setattr(doctor_software, "DISTRIBUTION_NAME", "no-such-distribution")
    assert only(check_packages()).remedy == "pip install -e ."
    assert only(check_python()).status == "ok"


def test_an_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is compared with the distribution's own requirement."""
    monkeypatch.setattr(doctor_software.platform, "python_version", lambda: "3.9.1")
    finding = only(check_python())
    assert finding.status == "problem"
    assert ">=3.11" in finding.detail


@pytest.mark.parametrize(("has_driver", "status"), [(True, "problem"), (False, "warning")])
def test_a_gpu_that_torch_does_not_see(
    monkeypatch: pytest.MonkeyPatch, has_driver: bool, status: str
) -> None:
    """No GPU is a warning; a driver whose GPU torch does not see is a problem."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor_software, "_has_nvidia_driver", lambda: has_driver)
    assert only(check_gpu()).status == status


def test_storage_is_left_as_it_was(tmp_path: Path) -> None:
    """The probe is deleted again, from a folder and from a remote file system alike."""
    assert only(check_storage(str(tmp_path))).status == "ok"
    assert list(tmp_path.iterdir()) == []
    assert only(check_storage("memory://doctor/probe")).status == "ok"
    assert fsspec.filesystem("memory").find("/doctor") == []


def test_a_missing_file_system_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Google's cloud storage without gcsfs, the remedy is the extra to install."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    finding = only(check_storage("gs://bucket/folder"))
    assert (finding.status, finding.remedy) == ("problem", "pip install 'emostream[gcs]'")


def test_memory_is_the_containers(tmp_path: Path) -> None:
    """A control group's limit counts; without a limit, the machine's memory counts."""
    machine = free_memory_bytes(tmp_path / "nothing")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_memory_bytes(tmp_path) == (600_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes(tmp_path)[1] == machine[1]


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Docker's 64 MiB of shared memory give a warning; a system without it gives no finding."""
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(doctor_machine.psutil, "disk_usage", lambda _path: usage)
    assert "--shm-size" in only(check_shared_memory()).remedy
    monkeypatch.undo()
    assert list(check_shared_memory(str(tmp_path / "nowhere"))) == []


@pytest.mark.parametrize(
    ("soft", "hard", "status", "remedy"),
    [
        (256, 4096, "problem", "ulimit -n 4096"),
        (1024, -1, "warning", "ulimit -n 8192"),
        (65536, 65536, "ok", ""),
        (-1, -1, "ok", ""),
    ],
)
def test_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, status: str, remedy: str
) -> None:
    """The remedy raises the limit no further than the system allows."""
    monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda _what: (soft, hard))
    finding = only(check_files())
    assert (finding.status, finding.remedy) == (status, remedy)


def test_a_silent_cluster_is_given_up() -> None:
    """An address that accepts and never answers costs no more than the time limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        local, cluster = check_ray(address, 1.0)
    assert (local.status, cluster.status) == ("ok", "problem")
    assert "no answer within 1 s" in cluster.detail


def test_a_live_cluster_shows_its_nodes(ray_address: str) -> None:
    """A live cluster shows the resources of its nodes."""
    _, cluster, node = check_ray(ray_address, 60.0)
    assert cluster.status == "ok", cluster.detail
    assert "1 nodes, 2 CPUs, 0 GPUs" in cluster.detail
    assert "2 CPUs" in node.detail


def test_options_are_checked() -> None:
    """A time limit of 0 is refused."""
    with pytest.raises(ConfigError, match="--timeout-seconds"):
        DoctorConfig(timeout_seconds=0)

"""`emostream doctor`: is this machine fit for the job, and if not, what to type.

Each check is a function that returns findings and raises nothing: when one check finds a fault, the
others must still run. A problem stops some command from working; a warning makes it slower or
smaller. Each problem and each warning comes with a remedy that can be pasted.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.doctor.finding import Finding, Status
from cluster.doctor.machine import (
    check_cpu,
    check_files,
    check_memory,
    check_shared_memory,
    check_storage,
)
from cluster.doctor.ray_cluster import check_ray
from cluster.doctor.software import (
    check_codecs,
    check_face_detection,
    check_gpu,
    check_packages,
    check_python,
    check_torch,
)
from cluster.exit_status import ExitStatus
from shards.config import ConfigError, option

__all__ = ["DoctorConfig", "Finding", "Status", "examine", "run_doctor"]

_MARKS: dict[Status, str] = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """Options of `emostream doctor`."""

    storage: str | None = option(
        default=None,
        help="Folder or URL that the job will write to; a small test file is written there.",
    )
    address: str | None = option(
        default=None,
        help="Ray cluster to connect to; without it, only the version of Ray is checked.",
    )
    timeout_seconds: float = option(default=30.0, help="Longest time to wait for the Ray cluster.")

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= 600:
            raise ConfigError(
                f"--timeout-seconds: got {self.timeout_seconds}, expected more than 0 and at most "
                "600"
            )


def run_doctor(config: DoctorConfig) -> int:
    """Print all findings; the exit status is 1 when one of them is a problem."""
    findings = examine(config)
    width = max(len(finding.name) for finding in findings)

    for finding in findings:
        sys.stdout.write(f"{_MARKS[finding.status]}  {finding.name:{width}}  {finding.detail}\n")
        if finding.remedy:
            sys.stdout.write(f"{'':{width + 11}}-> {finding.remedy}\n")

    counts = {status: sum(finding.status == status for finding in findings) for status in _MARKS}
    sys.stdout.write(
        f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems\n"
    )

    return ExitStatus.PROBLEM if counts["problem"] else ExitStatus.DONE


def examine(config: DoctorConfig) -> list[Finding]:
    """Run every check, and return the findings in the order in which they are shown."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_packages,
        check_torch,
        check_gpu,
        lambda: check_ray(config.address, config.timeout_seconds),
        check_codecs,
        check_face_detection,
        lambda: check_storage(config.storage),
        check_memory,
        check_shared_memory,
        check_files,
        check_cpu,
    )

    return [finding for check in checks for finding in check()]

"""What a check reports."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked; `remedy` is empty exactly when the status is `ok`."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.remedy == ""):
            raise ValueError(
                f"{self.name}: got status {self.status!r} with remedy {self.remedy!r}, expected "
                "a remedy for every fault, and none otherwise"
            )

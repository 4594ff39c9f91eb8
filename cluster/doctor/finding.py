"""What a check has to say."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `remedy` is empty exactly when it is all right."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.remedy == ""):
            raise ValueError(
                f"{self.name}: got status {self.status!r} with remedy {self.remedy!r}, expected "
                "one for every fault"
            )

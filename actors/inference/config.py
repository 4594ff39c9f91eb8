"""In which number format models compute, and how large a batch may be; without torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import option, require_positive

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """Upper bounds of one batch, padding included.

    No bound changes a label, and a batch that is too large for the memory is halved by itself.
    """

    audio_seconds: float | None = option(
        help="default: one window at a time on a CPU, 480 on a GPU", default=None
    )
    text_tokens: int | None = option(help="default: 512 on a CPU, 16384 on a GPU", default=None)
    face_frames: int | None = option(help="default: 8 on a CPU, 256 on a GPU", default=None)

    def __post_init__(self) -> None:
        require_positive(self, "audio_seconds", "text_tokens", "face_frames")

"""How samples are decoded; without torch, as reader processes read it."""

from dataclasses import dataclass

from shards.config import option, require_positive
from shards.media.face_config import FaceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaConfig:
    """How samples are decoded before a labeler sees them."""

    max_audio_seconds: float = option(
        help="longer recordings are recorded as too long and skipped", default=600.0
    )
    faces: FaceConfig = option(help="face crops from video", default_factory=FaceConfig)

    def __post_init__(self) -> None:
        require_positive(self, "max_audio_seconds")

"""How samples are decoded; without torch, as reader processes import it."""

from dataclasses import dataclass

from shards.config import option, require_positive
from shards.media.face_config import FaceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaConfig:
    """How samples are decoded before a labeler sees them."""

    max_audio_seconds: float = option(
        help="longer recordings are skipped and recorded as too long", default=600.0
    )
    faces: FaceConfig = option(help="face crops from video", default_factory=FaceConfig)

    def __post_init__(self) -> None:
        require_positive(self, "max_audio_seconds")

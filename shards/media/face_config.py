"""How faces are taken from video: the options, apart from the code that needs OpenCV and FFmpeg.

A panel's configuration holds them, and is read where neither is installed: a GPU worker that is
given decoded faces.
"""

import re
from dataclasses import dataclass

from shards.config import ConfigError, option, require_positive

DETECTOR_HUB_NAME = "opencv/face_detection_yunet"

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBoxConfig:
    """How a face is found in a picture, and how much around it is kept."""

    detector: str | None = option(
        help=f"YuNet face detector: an .onnx file, or a Hugging Face name ({DETECTOR_HUB_NAME})",
        default=None,
    )
    detector_revision: str | None = option(
        help="commit of a hub detector, 40 hexadecimal digits", default=None
    )
    score_threshold: float = option(
        help="faces the detector is less sure of are ignored", default=0.7
    )
    margin: float = option(
        help="added on each side of the face, as a share of its longer side", default=0.1
    )

    def __post_init__(self) -> None:
        if not 0 < self.score_threshold < 1:
            raise ConfigError(
                f"score_threshold: got {self.score_threshold}, expected a value between 0 and 1"
            )
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"margin: got {self.margin}, expected 0 to 1")
        if self.detector is not None and not self.detector.endswith(".onnx"):
            self._check_hub_name(self.detector)

    def _check_hub_name(self, name: str) -> None:
        if not _HUB_NAME.fullmatch(name):
            raise ConfigError(
                f"detector: got {name!r}, expected an .onnx file or a hub name like "
                f"{DETECTOR_HUB_NAME}"
            )
        if self.detector_revision is None or not _COMMIT.fullmatch(self.detector_revision):
            raise ConfigError(
                f"detector_revision: got {self.detector_revision!r} for the hub detector {name!r}, "
                "expected the full commit (40 hexadecimal digits), see "
                f"https://huggingface.co/{name}/commits/main"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig(FaceBoxConfig):
    """How faces are taken from video."""

    frames_per_second: float = option(
        help="pictures looked at in each second of video", default=2.0
    )
    size_pixels: int = option(help="side of a face crop", default=224)
    max_frames: int = option(
        help="videos with more sampled pictures are recorded as too long", default=1200
    )

    def __post_init__(self) -> None:
        FaceBoxConfig.__post_init__(self)  # super() does not find its way in a class with slots
        if not 0 < self.frames_per_second <= 120:
            raise ConfigError(
                f"frames_per_second: got {self.frames_per_second}, expected more than 0, at most "
                "120"
            )
        if not 16 <= self.size_pixels <= 1024:
            raise ConfigError(f"size_pixels: got {self.size_pixels}, expected 16 to 1024")
        require_positive(self, "max_frames")

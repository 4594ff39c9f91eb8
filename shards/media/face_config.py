"""How faces are taken from video: the options, apart from the code that needs OpenCV and FFmpeg.

A panel's configuration holds these options. The configuration is also read where neither library is
installed: on a GPU worker, which is given decoded faces.
"""

import re
from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_positive

DETECTOR_HUB_NAME = "opencv/face_detection_yunet"

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBoxConfig:
    """How a face is found in a picture, and how much of its surroundings is kept."""

    detector: str | None = option(
        help=f"YuNet face detector: an .onnx file, or a Hugging Face name ({DETECTOR_HUB_NAME}).",
        default=None,
    )
    detector_revision: str | None = option(
        help="Commit of a detector from the hub: 40 hexadecimal digits.", default=None
    )
    score_threshold: float = option(
        help="Lowest score of a face, between 0 and 1. Faces that the detector scores lower are "
        "ignored.",
        default=0.7,
    )
    margin: float = option(
        help="Margin on each side of the face, as a share (0 to 1) of the face's longer side.",
        default=0.1,
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
                f"detector_revision: got {self.detector_revision!r} for the detector {name!r} on "
                "the hub, expected its full commit (40 hexadecimal digits); choose one of "
                f"https://huggingface.co/{name}/commits/main"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig(FaceBoxConfig):
    """How faces are taken from video."""

    frames_per_second: float | Literal["all"] = option(
        help="Number of pictures of each second of video that are searched for a face, or `all` "
        "for every frame.",
        default=2.0,
    )
    size_pixels: int = option(help="Height and width of a face crop, in pixels.", default=224)
    max_frames: int = option(
        help="Largest number of pictures sampled from a video. Longer videos are rejected.",
        default=1200,
    )

    def __post_init__(self) -> None:
        # Not `super()`: in a dataclass with slots it still refers to the class before `dataclass`
        # replaced it, and fails.
        FaceBoxConfig.__post_init__(self)

        if self.frames_per_second != "all" and not 0 < self.frames_per_second <= 120:
            raise ConfigError(
                f"frames_per_second: got {self.frames_per_second}, expected more than 0 and at "
                "most 120, or all"
            )
        if not 16 <= self.size_pixels <= 1024:
            raise ConfigError(f"size_pixels: got {self.size_pixels}, expected 16 to 1024")
        require_positive(self, "max_frames")

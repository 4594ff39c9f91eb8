"""The form of the pictures that a video encoder expects.

This module lies apart from the code that needs FFmpeg, OpenCV and PIL: a recognizer carries a
`ClipFormat`, and may be loaded where none of the three is installed.
"""

from dataclasses import dataclass

from shards.config import ConfigError, option, require_positive
from shards.media.face_config import FaceBoxConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BILINEAR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFormat:
    """The form of the pictures that a video encoder was trained on, and therefore expects."""

    num_frames: int = option(help="Number of pictures of an utterance (T).")
    side_pixels: int = option(help="Height and width of a picture, in pixels.")
    shortest_edge_pixels: int = option(
        help="Shorter side of a whole picture after resizing, in pixels. The picture's middle "
        "square is then cut out."
    )
    resample: int = option(
        help="Filter that resizes, by its number in PIL (2: bilinear).", default=BILINEAR
    )
    rescale_factor: float = option(
        help="Factor by which each byte of a picture is multiplied.", default=1 / 255
    )
    mean: tuple[float, ...] = option(
        help="Mean of each color (red, green, blue), subtracted after rescaling.",
        default=IMAGENET_MEAN,
    )
    std: tuple[float, ...] = option(
        help="Standard deviation by which each color is divided.", default=IMAGENET_STD
    )
    faces: FaceBoxConfig = option(
        help="How faces are found. Without a detector, pictures are used whole.",
        default=FaceBoxConfig(),
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_frames")
        if not 0 < self.side_pixels <= self.shortest_edge_pixels:
            raise ConfigError(
                f"shortest_edge_pixels: got {self.shortest_edge_pixels}, expected at least the "
                f"{self.side_pixels} of side_pixels, the square that is cut out"
            )

        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ConfigError(
                f"mean, std: got {self.mean}, {self.std}, expected three numbers each, all of "
                "std above 0"
            )

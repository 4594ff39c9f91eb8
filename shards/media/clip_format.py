"""What a video encoder wants to see, apart from the code that needs FFmpeg, OpenCV and PIL.

A recognizer carries it, and is loaded where none of these is installed.
"""

from dataclasses import dataclass

from shards.config import ConfigError, option, require_positive
from shards.media.face_config import FaceBoxConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BILINEAR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFormat:
    """What a video encoder was trained on, and so wants to see."""

    num_frames: int = option(help="T, pictures of an utterance")
    side_pixels: int = option(help="height and width of a picture")
    shortest_edge_pixels: int = option(
        help="a whole picture's shorter side before its middle square is cut out"
    )
    resample: int = option(help="PIL's number for the filter that resizes", default=BILINEAR)
    rescale_factor: float = option(help="what bytes are multiplied by", default=1 / 255)
    mean: tuple[float, ...] = option(help="subtracted from each color", default=IMAGENET_MEAN)
    std: tuple[float, ...] = option(help="what each color is divided by", default=IMAGENET_STD)
    faces: FaceBoxConfig = option(
        help="how faces are found; without a detector, none are", default=FaceBoxConfig()
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_frames")
        if not 0 < self.side_pixels <= self.shortest_edge_pixels:
            raise ConfigError(
                f"shortest_edge_pixels: got {self.shortest_edge_pixels}, expected at least the "
                f"{self.side_pixels} of side_pixels, which are cut out of it"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ConfigError(
                f"mean, std: got {self.mean}, {self.std}, expected three numbers each, std above 0"
            )

"""Video to face crops: the most prominent face of each sampled picture, as a square of fixed size.

The detector is YuNet, run by OpenCV: it has 320 kB, takes 15 ms a picture on one core, and brings
no second deep-learning framework into the readers. It looks for faces in a picture scaled down to
640 pixels, where it finds the same faces as at full size (in 1080p eleven times as fast); the crops
are cut from the full picture. The largest face is taken as the speaker's, because in the recordings
that this project is for, the camera is on the speaker. Tracking faces over time, and finding out
whose lips move, was left to other projects. Alignment by the landmarks was left out: the expression
classifiers on the hub are trained on plain boxes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.errors import BadSample
from shards.media.face_config import DETECTOR_HUB_NAME, FaceConfig
from shards.media.frames import sampled_frames

DETECTOR_HUB_FILE = "face_detection_yunet_2023mar.onnx"

_DETECTION_SIDE_PIXELS = 640
_OVERLAP_THRESHOLD = 0.3  # two boxes that overlap more than this are one face
_MAX_FACES = 50


class FaceDetector(Protocol):
    """Finds faces in a picture."""

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The faces in `picture` `[height, width, 3]` RGB, as `[num_faces, 5]`.

        The five numbers of a face are left, top, width, height (in pixels) and score.
        """


class FaceCropper:
    """Turns a video into the face crops a vision labeler sees."""

    def __init__(self, config: FaceConfig, detector: FaceDetector | None = None) -> None:
        self._config = config
        self._detector = detector

    def setup(self) -> None:
        """Load the detector. Raises ConfigError when none is configured or it cannot be loaded."""
        self._detector = YunetDetector(
            detector_path(self._config), score_threshold=self._config.score_threshold
        )

    def crops(self, video: bytes) -> NDArray[np.uint8]:
        """The face crops `[num_faces, size, size, 3]` RGB of `video`, in the order of time.

        Pictures without a face are left out. Raises BadSample: `no_face`, or what `sampled_frames`
        raises.
        """
        self._require_setup()
        config = self._config

        crops: list[NDArray[np.uint8]] = []
        num_pictures = 0
        sampled = sampled_frames(
            video, frames_per_second=config.frames_per_second, max_frames=config.max_frames
        )
        for picture, repeats in sampled:
            num_pictures += repeats
            crop = self.crop(picture)
            if crop is not None:
                crops += [crop] * repeats

        if not crops:
            raise BadSample("no_face", f"none of {num_pictures} pictures shows a face")
        return np.stack(crops)

    def crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The face crop `[size, size, 3]` of one RGB picture; None when it shows no face."""
        box = prominent_face(self._require_setup().detect(picture), picture.shape[:2])
        if box is None:
            return None

        return square_crop(
            picture, box, margin=self._config.margin, size_pixels=self._config.size_pixels
        )

    def _require_setup(self) -> FaceDetector:
        if self._detector is None:
            raise RuntimeError("FaceCropper was used without a detector; call FaceCropper.setup")
        return self._detector


class YunetDetector:
    """YuNet through OpenCV's `FaceDetectorYN`."""

    def __init__(self, path: Path, *, score_threshold: float) -> None:
        if not path.is_file():
            raise ConfigError(f"face detector: {path} is no file; {_detector_remedy()}")

        # A reader owns a share of a core; OpenCV would start a thread for each core of the machine.
        cv2.setNumThreads(1)

        try:
            with _quiet_opencv():
                self._net = cv2.FaceDetectorYN.create(
                    str(path), "", (320, 320), score_threshold, _OVERLAP_THRESHOLD, _MAX_FACES
                )
        except cv2.error as error:
            raise ConfigError(
                f"face detector: {path} cannot be loaded as a YuNet model ({error.err}); "
                f"{_detector_remedy()}"
            ) from error

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `FaceDetector`."""
        height, width = picture.shape[:2]
        scale = min(1.0, _DETECTION_SIDE_PIXELS / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = picture if scale == 1.0 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

        self._net.setInputSize(size)
        found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
        if found is None:
            return np.empty((0, 5), np.float32)

        # YuNet's row of 15 numbers holds the box, ten coordinates of landmarks, and the score. The
        # box is in pixels of `small` and goes back to those of `picture`.
        faces = np.column_stack([found[:, :4] / scale, found[:, 14]])
        return faces.astype(np.float32)


def detector_path(config: FaceConfig) -> Path:
    """The path of the detector's file; a detector on the hub is fetched first.

    Raises ConfigError when no detector is configured or it cannot be fetched.
    """
    if config.detector is None:
        raise ConfigError(
            f"detector: none is given, but faces are wanted from video; {_detector_remedy()}"
        )
    if config.detector.endswith(".onnx"):
        return Path(config.detector)

    # Imported only here: huggingface_hub is slow to import, and a reader whose detector is a local
    # file does not need it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            hf_hub_download(config.detector, DETECTOR_HUB_FILE, revision=config.detector_revision)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        name = f"{config.detector}@{config.detector_revision}"
        raise ConfigError(
            f"face detector: {name} cannot be fetched ({error}); {_detector_remedy()}"
        ) from error


def prominent_face(
    faces: NDArray[np.float32], picture_size: tuple[int, ...]
) -> NDArray[np.float32] | None:
    """The box of the largest of `faces` `[num_faces, 5]` whose middle lies in the picture.

    Of two faces of one size, it is that of the face with the higher score. None when no face lies
    in the picture.
    """
    height, width = picture_size
    centers = faces[:, :2] + faces[:, 2:4] / 2
    usable = np.isfinite(faces).all(axis=1) & (faces[:, 2:4] >= 1).all(axis=1)
    usable &= (centers >= 0).all(axis=1) & (centers[:, 0] < width) & (centers[:, 1] < height)
    if not usable.any():
        return None

    # lexsort sorts by its last key first: by area, and equal areas by score.
    candidates = faces[usable]
    order = np.lexsort((candidates[:, 4], candidates[:, 2] * candidates[:, 3]))
    return candidates[order[-1], :4]


def square_crop(
    picture: NDArray[np.uint8], box: NDArray[np.float32], *, margin: float, size_pixels: int
) -> NDArray[np.uint8]:
    """The square around `box` (left, top, width, height) and its margin, resized to `size_pixels`.

    Where the square reaches beyond the picture, the pixels of the picture's edge are repeated: a
    classifier would take black bars for a feature of the face.
    """
    height, width = picture.shape[:2]
    left, top, box_width, box_height = (float(value) for value in box)
    side = min(max(box_width, box_height) * (1 + 2 * margin), 2.0 * max(width, height))
    side_pixels = max(1, round(side))
    x = round(left + box_width / 2 - side_pixels / 2)
    y = round(top + box_height / 2 - side_pixels / 2)

    # Clipped indices repeat the edge: rows -2, -1, 0, 1 become 0, 0, 0, 1.
    rows = np.clip(np.arange(y, y + side_pixels), 0, height - 1)
    columns = np.clip(np.arange(x, x + side_pixels), 0, width - 1)
    square = np.ascontiguousarray(picture[rows[:, np.newaxis], columns])

    interpolation = cv2.INTER_AREA if side_pixels > size_pixels else cv2.INTER_LINEAR
    resized: NDArray[np.uint8] = cv2.resize(
        square, (size_pixels, size_pixels), interpolation=interpolation
    )
    return resized


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence OpenCV, which warns on standard error about each model it loads.

    Errors are still shown.
    """
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _detector_remedy() -> str:
    hub = f"{DETECTOR_HUB_NAME} with detector_revision"
    return f"set detector to a YuNet .onnx file or to {hub} (https://huggingface.co/{DETECTOR_HUB_NAME})"

"""Clips: the few pictures of an utterance's video that a video encoder sees, all of one size.

The pictures of a clip are spread over the whole utterance. With a face detector they are face
crops, cut like those of the panel. Where no face is found in a picture, the clip repeats the crop
before it (at the start, the first crop that is found), because a clip has a fixed number of
pictures. Without a detector every picture is used whole: resized by its shortest side and cut to
its middle square. PIL resizes the pictures, because the image processors of the checkpoints are
defined by PIL; the processors themselves were left out because they need torch. A clip stays bytes
until a batch is made of it, which takes a quarter of the memory.

Shapes: T pictures.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import BadSample
from shards.media.clip_format import ClipFormat
from shards.media.face_config import FaceConfig
from shards.media.faces import FaceCropper
from shards.media.frames import spread_frames


class ClipReader:
    """Turns videos into clips; loads the face detector for the first video and keeps it."""

    def __init__(self, clip_format: ClipFormat, cropper: FaceCropper | None = None) -> None:
        self._format = clip_format
        self._cropper = cropper

    def __getstate__(self) -> dict[str, Any]:
        # A loaded detector cannot be pickled: each worker process loads its own.
        return self.__dict__ | {"_cropper": None}

    def read(self, video: bytes) -> NDArray[np.uint8]:
        """The clip `[T, side, side, 3]` RGB of `video`.

        Raises BadSample (`no_face`, or what `spread_frames` raises), and ConfigError when the
        detector cannot be loaded.
        """
        spread = spread_frames(video, num_frames=self._format.num_frames)
        crops = [crop for picture, repeats in spread for crop in [self._crop(picture)] * repeats]

        found = next((crop for crop in crops if crop is not None), None)
        if found is None:
            raise BadSample("no_face", f"none of {len(crops)} pictures shows a face")

        # `found` begins as the first crop with a face, for the pictures before it, and is the last
        # one found from there on.
        clip = []
        for crop in crops:
            found = crop if crop is not None else found
            clip.append(found)

        return np.stack(clip)

    def standardized(self, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The input of the encoder, `[T, 3, side, side]`, from a clip `[T, side, side, 3]`."""
        # This is (clip * factor - mean) / std, multiplied out.
        scale = self._format.rescale_factor / np.asarray(self._format.std)
        offset = np.asarray(self._format.mean) / np.asarray(self._format.std)
        values = clip * scale.astype(np.float32) - offset.astype(np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def _crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        faces = self._format.faces
        if faces.detector is None:
            return middle_square(picture, self._format)

        if self._cropper is None:
            cropper = FaceCropper(FaceConfig(**asdict(faces), size_pixels=self._format.side_pixels))
            cropper.setup()
            self._cropper = cropper

        return self._cropper.crop(picture)


def middle_square(picture: NDArray[np.uint8], clip_format: ClipFormat) -> NDArray[np.uint8]:
    """The middle square `[side, side, 3]` of `picture` `[height, width, 3]`, after resizing.

    The picture is resized so that its shortest side has `shortest_edge_pixels`.
    """
    height, width = picture.shape[:2]
    shortest, side = clip_format.shortest_edge_pixels, clip_format.side_pixels
    size = shortest * width // min(height, width), shortest * height // min(height, width)
    resized = Image.fromarray(picture).resize(size, Image.Resampling(clip_format.resample))

    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))

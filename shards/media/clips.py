"""An utterance's video as the few pictures a video encoder sees: spread over the whole utterance,
all of one size.

With a face detector the pictures are face crops, as the panel's; one in which no face is found
repeats the crop before (at the start, the first found), since a clip has a fixed number of
pictures. Without, they are whole pictures, resized by their shortest side and cut to the middle
square. PIL resizes, for it is what the checkpoints' image processors are defined by; the processors
themselves lost, as they need torch. Clips stay bytes until a batch is made of them: a quarter of
the memory.

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
    """Videos to clips; the face detector is loaded at the first one and stays, but in this process
    only.
    """

    def __init__(self, clip_format: ClipFormat, cropper: FaceCropper | None = None) -> None:
        self._format = clip_format
        self._cropper = cropper

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cropper": None}

    def read(self, video: bytes) -> NDArray[np.uint8]:
        """The clip `[T, side, side, 3]` RGB of `video`.

        Raises BadSample (`no_face`, or what `spread_frames` raises), and ConfigError for a detector
        that cannot be loaded.
        """
        spread = spread_frames(video, num_frames=self._format.num_frames)
        crops = [crop for picture, repeats in spread for crop in [self._crop(picture)] * repeats]
        found = next((crop for crop in crops if crop is not None), None)
        if found is None:
            raise BadSample("no_face", f"none of {len(crops)} pictures shows a face")
        clip = []
        for crop in crops:
            found = crop if crop is not None else found
            clip.append(found)
        return np.stack(clip)

    def standardized(self, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the encoder takes `[T, 3, side, side]` of a clip `[T, side, side, 3]`."""
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
    """The middle `[side, side, 3]` of `picture` `[height, width, 3]` resized by its shortest
    side.
    """
    height, width = picture.shape[:2]
    shortest, side = clip_format.shortest_edge_pixels, clip_format.side_pixels
    size = shortest * width // min(height, width), shortest * height // min(height, width)
    resized = Image.fromarray(picture).resize(size, Image.Resampling(clip_format.resample))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))

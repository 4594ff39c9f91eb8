"""Clips: pictures spread over the utterance, framed whole or by the face.

Whole pictures are framed as the encoder's image processor frames them.
"""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import VideoMAEImageProcessorPil

from shards.config import ConfigError
from shards.errors import BadSample
from shards.media.clip_format import ClipFormat
from shards.media.clips import ClipReader
from shards.media.face_config import FaceBoxConfig, FaceConfig
from shards.media.faces import FaceCropper, square_crop
from shards.media.frames import spread_frames
from tests.shards.media.pieces import Picture, encode_sound, encode_video, tone, with_flips
from tests.shards.media.test_faces import number_of, numbered

CONTAINERS = {"mp4": "libx264", "matroska": "libx264", "webm": "libvpx"}
SMALL = ClipFormat(num_frames=4, side_pixels=32, shortest_edge_pixels=32)
FACES = ClipFormat(
    num_frames=4,
    side_pixels=32,
    shortest_edge_pixels=32,
    faces=FaceBoxConfig(detector="yunet.onnx"),
)
BOX = (10.0, 6.0, 20.0, 20.0)


class BrightFaces:
    """A detector that finds one face, at one place, in pictures that are bright enough."""

    def __init__(self, threshold: float) -> None:
        # Why a lambda: like a loaded net, it does not pickle.
        self._is_face = lambda picture: picture.mean() > threshold

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray([[*BOX, 0.9]] if self._is_face(picture) else [], np.float32).reshape(
            -1, 5
        )


def spread(data: bytes, num_frames: int) -> list[int]:
    """The numbers of the pictures at each instant."""
    return [
        number_of(picture)
        for picture, n in spread_frames(data, num_frames=num_frames)
        for _ in range(n)
    ]


def face_reader(threshold: float) -> ClipReader:
    return ClipReader(FACES, FaceCropper(FaceConfig(size_pixels=32), BrightFaces(threshold)))


def textured(seed: int, *, width: int, height: int) -> Picture:
    coarse = np.random.default_rng(seed).integers(
        0, 255, (height // 8, width // 8, 3), dtype=np.uint8
    )
    return np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(1, [10]), (4, [2, 7, 12, 17]), (10, list(range(1, 20, 2))), (20, list(range(20)))],
)
def test_pictures_lie_in_the_middle_of_equal_parts(
    container: str, num_frames: int, expected: list[int]
) -> None:
    """Each picture lies in the middle of an equal part of the two seconds."""
    pictures = [numbered(n) for n in range(20)]
    data = encode_video(
        pictures, frames_per_second=10, container=container, codec=CONTAINERS[container]
    )
    assert spread(data, num_frames) == expected


def test_a_video_of_fewer_pictures_repeats_them_evenly() -> None:
    """A clip always has as many pictures as asked for."""
    assert (
        spread(encode_video([numbered(n) for n in range(2)], frames_per_second=5), 8)
        == [0] * 4 + [1] * 4
    )
    assert spread(encode_video([numbered(3)]), 5) == [3] * 5


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=12), st.sampled_from([1, 3, 16]))
@settings(max_examples=25, deadline=None)
def test_every_instant_shows_the_last_picture_whose_time_has_come(
    gaps: list[int], num_frames: int
) -> None:
    """The pictures are those of the definition, for pictures at any times.

    Times are in milliseconds. The last picture is shown for as long as the track says.
    """
    times = np.cumsum([0, *gaps]) / 1000
    data = encode_video(
        [numbered(n) for n in range(len(times))], times=list(times), container="matroska"
    )

    found = spread(data, num_frames)

    possible = []
    for last_seconds in (1 / 24, 1 / 25):  # what the track's rate says, or where it says nothing
        instants = (np.arange(num_frames) + 0.5) * (times[-1] + last_seconds) / num_frames
        possible.append(
            [int(np.searchsorted(times, instant + 1e-6, side="right")) - 1 for instant in instants]
        )

    assert found in possible


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 80), (40, 40), (64, 56)])
@pytest.mark.parametrize("shortest", [32, 40])
def test_whole_pictures_are_what_the_image_processor_makes(
    width: int, height: int, shortest: int
) -> None:
    """Clips equal those of transformers' own processor on the same pictures.

    They are the same to the byte; standardized values are equal to 1e-5.
    """
    clip_format = ClipFormat(num_frames=4, side_pixels=32, shortest_edge_pixels=shortest)
    data = encode_video(
        [textured(n, width=width, height=height) for n in range(4)], frames_per_second=4
    )

    pictures = [picture for picture, _ in spread_frames(data, num_frames=4)]

    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": shortest},
        crop_size={"height": 32, "width": 32},
        resample=2,
        image_mean=list(clip_format.mean),
        image_std=list(clip_format.std),
    )
    expected = processor(pictures, return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ][0]

    reader = ClipReader(clip_format)
    clip = reader.read(data)
    assert (clip.shape, clip.dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(reader.standardized(clip), expected, atol=1e-5)


def test_faces_fill_the_pictures_where_there_is_a_detector() -> None:
    """The pictures of a clip are the panel's face crops.

    A picture without a face repeats the crop before; the first ones repeat the first crop found.
    """
    data = encode_video([numbered(n) for n in (1, 20, 2, 22)], frames_per_second=4)
    crops = face_reader(100).read(data)
    assert [number_of(crop) for crop in crops] == [20, 20, 20, 22]
    pictures = [picture for picture, _ in spread_frames(data, num_frames=4)]
    expected = square_crop(pictures[3], np.asarray(BOX, np.float32), margin=0.1, size_pixels=32)
    np.testing.assert_array_equal(crops[3], expected)


def test_a_reader_with_a_loaded_detector_travels_to_a_worker() -> None:
    """A reader is pickled without its detector.

    A face reader would load its own, and cannot here; whole pictures need none.
    """
    data = encode_video([numbered(20)] * 4)
    traveled = pickle.loads(pickle.dumps(face_reader(100)))
    with pytest.raises(ConfigError, match=r"yunet\.onnx is no file"):
        traveled.read(data)
    plain = pickle.loads(pickle.dumps(ClipReader(SMALL)))
    np.testing.assert_array_equal(plain.read(data), ClipReader(SMALL).read(data))


def code_of(data: bytes, reader: ClipReader) -> str:
    with pytest.raises(BadSample) as caught:
        reader.read(data)
    return caught.value.code


def test_a_video_that_cannot_be_used_says_why() -> None:
    """A video has a reason for no face, no pictures, a cut, and other formats."""
    data = encode_video([numbered(n) for n in range(12)])
    assert code_of(data, face_reader(255)) == "no_face"
    sound = encode_sound(tone(200), rate_hz=48_000, container="mp4", codec="aac")
    assert code_of(sound, ClipReader(SMALL)) == "no_video_track"
    assert code_of(data[: len(data) // 2], ClipReader(SMALL)) == "corrupt_video"
    assert code_of(b"RIFF", ClipReader(SMALL)) == "unknown_video_format"
    assert code_of(b"", ClipReader(SMALL)) == "empty_video"


VIDEOS = [
    encode_video([textured(n, width=64, height=48) for n in range(6)], container=c)
    for c in ("mp4", "matroska")
]


@given(
    st.sampled_from(VIDEOS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_damage_is_a_bad_sample_or_a_clip(data: bytes, flips: Sequence[tuple[float, int]]) -> None:
    """Whatever bytes change, a whole clip comes out, or BadSample and no other error."""
    try:
        clip = ClipReader(SMALL).read(with_flips(data, flips))
    except BadSample:
        return
    assert clip.shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames: got 0"),
        ({"shortest_edge_pixels": 31}, "shortest_edge_pixels: got 31, expected at least the 32"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"mean": (0.5,)}, "three numbers each"),
    ],
)
def test_formats_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    """The error names the option of a format that cannot be."""
    with pytest.raises(ConfigError, match=message):
        ClipFormat(**({"num_frames": 4, "side_pixels": 32, "shortest_edge_pixels": 32} | options))  # type: ignore[arg-type]

"""Pictures at a steady rate, and faces cut from them.

A video can be bad in many ways, and each has a reason.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.container import MAX_FRAME_PIXELS
from shards.media.face_config import FaceConfig
from shards.media.faces import FaceCropper, prominent_face, square_crop
from shards.media.frames import check_video_header, sampled_frames
from tests import ROOT
from tests.shards.media.pieces import (
    Picture,
    encode_sound,
    encode_video,
    gray,
    tone,
    with_flips,
    with_rotation,
)

CODECS = {
    "mp4": ("mp4", "libx264"),
    "mkv": ("matroska", "libx264"),
    "mpeg4 in mkv": ("matroska", "mpeg4"),
    "motion jpeg in mkv": ("matroska", "mjpeg"),
    "webm": ("webm", "libvpx"),
}
SHADE = 10  # between the shades of two numbered pictures; codecs stray by 2 or 3


def numbered(number: int) -> Picture:
    return gray(15 + SHADE * number)


def number_of(picture: Picture) -> int:
    return round((float(picture.mean()) - 15) / SHADE)


def sampled(
    data: bytes, frames_per_second: float | Literal["all"], max_frames: int = 1000
) -> list[int]:
    """The numbers of the pictures at each instant."""
    pictures = sampled_frames(data, frames_per_second=frames_per_second, max_frames=max_frames)
    return [number_of(picture) for picture, repeats in pictures for _ in range(repeats)]


def code_of(data: bytes, *, frames_per_second: float = 4.0, max_frames: int = 100) -> str:
    with pytest.raises(BadSample) as caught:
        list(sampled_frames(data, frames_per_second=frames_per_second, max_frames=max_frames))
    return caught.value.code


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    ("frames_per_second", "expected"),
    [
        (2.0, [0, 5, 10, 15]),
        (1.0, [0, 10]),
        (5.0, list(range(0, 20, 2))),
        (10.0, list(range(20))),
        (0.1, [0]),
        ("all", list(range(20))),
    ],
)
def test_the_pictures_at_a_steady_rate_are_chosen(
    name: str, frames_per_second: float | Literal["all"], expected: list[int]
) -> None:
    """Exactly the pictures shown at the instants asked for come out, in order.

    The video has two seconds at ten pictures a second.
    """
    container, codec = CODECS[name]
    data = encode_video(
        [numbered(n) for n in range(20)], frames_per_second=10, container=container, codec=codec
    )
    assert sampled(data, frames_per_second) == expected
    check_video_header(data)


def test_a_faster_rate_than_the_videos_repeats_pictures() -> None:
    """A picture counts as often as it is shown, so that every second weighs alike."""
    data = encode_video([numbered(n) for n in range(4)], frames_per_second=5)
    assert sampled(data, 10.0) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_every_frame_is_taken_once_whatever_its_time() -> None:
    """With `all`, a frame that flashes by counts like one that is held, up to the limit."""
    data = encode_video([numbered(n) for n in range(6)], times=[0.0, 0.02, 0.04, 1.1, 1.12, 2.6])

    assert sampled(data, "all", max_frames=6) == list(range(6))
    with pytest.raises(BadSample, match="more than 5 pictures at all"):
        sampled(data, "all", max_frames=5)


def test_a_video_with_an_uneven_rate_is_sampled_by_time() -> None:
    """A picture that is held counts often; one that flashes by between instants does not."""
    data = encode_video([numbered(n) for n in range(6)], times=[0.0, 0.02, 0.04, 1.1, 1.12, 2.6])
    assert sampled(data, 2.0) == [0, 2, 2, 4, 4, 4]


def test_a_video_that_starts_late_starts_with_its_first_picture() -> None:
    """Instants are counted from the first picture, even if it comes late."""
    data = encode_video(
        [numbered(n) for n in range(20)],
        times=[5 + n / 10 for n in range(20)],
        container="matroska",
    )
    assert sampled(data, 2.0) == [0, 5, 10, 15]


@given(
    st.lists(st.integers(1, 1500), min_size=1, max_size=12), st.sampled_from([1.0, 2.0, 3.0, 7.0])
)
@settings(max_examples=25, deadline=None)
def test_every_instant_shows_the_last_picture_whose_time_has_come(
    gaps: list[int], frames_per_second: float
) -> None:
    """The pictures are those of the definition, for pictures at any times in milliseconds."""
    times = np.cumsum([0, *gaps]) / 1000
    data = encode_video(
        [numbered(n) for n in range(len(times))], times=list(times), container="matroska"
    )
    numbers = sampled(data, frames_per_second)

    instants = np.arange(len(numbers)) / frames_per_second
    assert numbers == [
        int(np.searchsorted(times, instant + 1e-6, side="right")) - 1 for instant in instants
    ]
    assert instants[-1] + 1 / frames_per_second > times[-1]


def test_more_pictures_than_allowed_is_too_long() -> None:
    """The limit is exact to the picture that would be sampled."""
    data = encode_video([numbered(n) for n in range(20)], frames_per_second=10)
    assert len(sampled(data, 5.0, max_frames=10)) == 10
    assert code_of(data, frames_per_second=5.0, max_frames=9) == "video_too_long"


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_camera_held_sideways_gives_upright_pictures(quarter_turns: int) -> None:
    """The rotation that a phone notes beside the pictures is applied, clockwise."""
    picture = gray(40)
    picture[:12, :16] = 220  # top left
    turned = with_rotation(encode_video([picture] * 3), quarter_turns)
    upright, _ = next(iter(sampled_frames(turned, frames_per_second=1, max_frames=10)))
    np.testing.assert_allclose(upright.astype(int), np.rot90(picture, -quarter_turns), atol=8)


def test_a_video_without_pictures_says_so() -> None:
    """A sound track alone, in a container for video, has a reason of its own."""
    assert (
        code_of(encode_sound(tone(440), rate_hz=48_000, container="mp4", codec="aac"))
        == "no_video_track"
    )


def without_tables(video: bytes) -> bytes:
    return video[: video.index(b"moov") - 4]


def without_media(video: bytes) -> bytes:
    start = video.index(b"mdat") + 4
    size = int.from_bytes(video[start - 8 : start - 4], "big") - 8
    return video[:start] + bytes(size) + video[start + size :]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda _: b"", "empty_video"),
        (lambda _: b"these are no pictures", "unknown_video_format"),
        (lambda video: video[:8], "corrupt_video"),
        (lambda video: video[: len(video) // 2], "corrupt_video"),
        (lambda video: video[:-200], "corrupt_video"),
        (without_tables, "corrupt_video"),
        (without_media, "corrupt_video"),
    ],
)
def test_a_broken_video_has_a_reason(damage: object, code: str) -> None:
    """A broken video has a reason, and none of its pictures is used."""
    assert callable(damage)
    assert code_of(damage(encode_video([numbered(n) for n in range(20)]))) == code


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    """Motion JPEG in which each picture claims this size."""
    data = bytearray(encode_video([gray(90)] * 3, container="matroska", codec="mjpeg"))
    at = data.find(b"\xff\xc0\x00\x11\x08")
    while at >= 0:
        data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        at = data.find(b"\xff\xc0\x00\x11\x08", at + 1)
    return bytes(data)


def mp4_of_claimed_size(width: int, height: int) -> bytes:
    """Motion JPEG in MP4, whose container claims this size."""
    data = encode_video([gray(90)] * 3, codec="mjpeg")
    at = data.index(b"mp4v") + 4 + 24
    return data[:at] + width.to_bytes(2, "big") + height.to_bytes(2, "big") + data[at + 4 :]


MEASURE = """
import resource, sys
from pathlib import Path
from shards.errors import BadSample
from shards.media.frames import sampled_frames
for path in sys.argv[1:]:
    try:
        for _ in sampled_frames(Path(path).read_bytes(), frames_per_second=10, max_frames=20):
            pass
        code = "none"
    except BadSample as bad:
        code = bad.code
    print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_no_claim_and_no_length_costs_memory(tmp_path: Path) -> None:
    """Gigantic pictures, endless tables and a long video cost no more memory than a short one."""
    table = encode_video([gray(90)] * 3)
    at = table.index(b"stsz") + 8
    claims = (
        table[:at] + (6).to_bytes(4, "big") + (200_000_000).to_bytes(4, "big") + table[at + 8 :]
    )

    files = {
        "short": (encode_video([gray(90)] * 20, frames_per_second=10), {"none"}),
        "huge": (jpeg_of_claimed_size(60_000, 60_000), {"corrupt_video", "frame_too_large"}),
        "huge in mp4": (mp4_of_claimed_size(60_000, 60_000), {"none"}),  # the pictures know better
        "claims": (claims, {"corrupt_video"}),
        "long": (
            encode_video([gray(n % 200) for n in range(600)], frames_per_second=10),
            {"video_too_long"},
        ),
    }

    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)

    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = [line.split() for line in done.stdout.splitlines()]

    for (code, _), (name, (_, codes)) in zip(measured, files.items(), strict=True):
        assert code in codes, name
    assert int(measured[-1][1]) - int(measured[0][1]) <= 16


def test_the_largest_picture_that_is_read_and_one_beyond() -> None:
    """A wide film's picture passes, one with two rows of pixels more does not."""
    width = 4096
    height = MAX_FRAME_PIXELS // width
    data = encode_video([gray(90, width=width, height=height)], codec="mjpeg", container="matroska")

    ((picture, repeats),) = sampled_frames(data, frames_per_second=1, max_frames=10)
    assert (picture.shape, repeats) == ((height, width, 3), 1)

    assert code_of(
        encode_video(
            [gray(90, width=width, height=height + 2)], codec="mjpeg", container="matroska"
        )
    ) in {
        "frame_too_large",
        "corrupt_video",
    }


# Faces.


class BrightFaces:
    """A detector that takes the parts of two shades for faces.

    A face of shade 250 is sure, one of 200 is less sure.
    """

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        faces = [
            self._box(np.abs(picture[..., 0].astype(int) - shade) < 12, score)
            for shade, score in SCORES.items()
        ]
        return np.array([face for face in faces if face is not None], np.float32).reshape(-1, 5)

    @staticmethod
    def _box(mask: NDArray[np.bool_], score: float) -> tuple[float, ...] | None:
        rows, columns = np.nonzero(mask)
        if len(rows) == 0:
            return None
        left, top = columns.min(), rows.min()
        return left, top, columns.max() - left + 1, rows.max() - top + 1, score


SCORES = {250: 0.95, 200: 0.8}


def cropper(**settings: float) -> FaceCropper:
    return FaceCropper(FaceConfig(**{"size_pixels": 32, "margin": 0.0, **settings}), BrightFaces())  # type: ignore[arg-type]


def scene(*boxes: tuple[int, int, int, int, int]) -> Picture:
    """A dark picture with boxes (left, top, width, height, shade)."""
    picture = gray(20, width=128, height=96)
    for left, top, width, height, shade in boxes:
        picture[top : top + height, left : left + width] = shade
    return picture


def test_crops_are_the_face_in_the_order_of_time() -> None:
    """A face that moves fills every crop; pictures without a face are left out."""
    pictures = [scene((4 * n, 2 * n, 32, 32, 250)) for n in range(10)] + [scene()] * 10
    crops = cropper(frames_per_second=5).crops(encode_video(pictures, frames_per_second=10))
    assert (crops.shape, crops.dtype) == ((5, 32, 32, 3), np.uint8)
    assert crops[:, 1:-1, 1:-1].min() > 230


def test_the_larger_of_two_faces_is_taken() -> None:
    """The larger face is taken, even where the detector is surer of the smaller one."""
    crops = cropper().crops(
        encode_video([scene((4, 4, 24, 24, 250), (60, 20, 48, 48, 200))] * 4, frames_per_second=4)
    )
    assert 180 < crops[:, 1:-1, 1:-1].min() <= crops[:, 1:-1, 1:-1].max() < 220


def test_the_margin_is_around_the_face() -> None:
    """With a margin of a fifth on each side, the face is 5/7 of the crop, in its middle."""
    crops = cropper(margin=0.2, size_pixels=70).crops(
        encode_video([scene((40, 24, 50, 50, 250))] * 2)
    )
    bright = crops[0, :, :, 0] > 135
    for axis in (0, 1):
        inside = np.flatnonzero(bright.any(axis=axis))
        assert inside.min() == pytest.approx(10, abs=1)
        assert inside.max() == pytest.approx(59, abs=1)


def test_a_video_in_which_nobody_is_seen_says_so() -> None:
    """A video in which nobody is seen has a reason of its own."""
    with pytest.raises(BadSample, match="no_face: none of 2 pictures"):
        cropper().crops(encode_video([scene()] * 24))


def test_an_unused_cropper_says_what_to_do() -> None:
    """A missing call of `setup` is an error of the program, not of the video."""
    with pytest.raises(RuntimeError, match="setup"):
        FaceCropper(FaceConfig()).crops(b"")


def coordinates(width: int = 60, height: int = 40) -> Picture:
    """A picture whose pixels say where they are: red is the column, green the row."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width), np.arange(height)[:, np.newaxis]
    return picture


def box(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("face", "left", "top"),
    [
        ((10, 8, 16, 16), 10, 8),
        ((14, 8, 8, 16), 10, 8),  # narrow: widened around its middle
        ((10, 12, 16, 8), 10, 8),  # flat
        ((-6, 8, 16, 16), -6, 8),
        ((52, 30, 16, 16), 52, 30),
        ((-4, -3, 16, 16), -4, -3),
    ],
)
def test_a_crop_is_the_square_around_the_middle_of_its_box(
    face: tuple[int, int, int, int], left: int, top: int
) -> None:
    """Every pixel is the expected one; beyond the border the picture's edge is repeated."""
    crop = square_crop(coordinates(), box(*face), margin=0.0, size_pixels=16)
    np.testing.assert_array_equal(
        crop[..., 0], np.tile(np.clip(np.arange(left, left + 16), 0, 59), (16, 1))
    )
    np.testing.assert_array_equal(
        crop[..., 1], np.tile(np.clip(np.arange(top, top + 16), 0, 39), (16, 1)).T
    )


def test_a_crop_is_scaled_to_its_size() -> None:
    """A crop is made smaller by averaging: each pixel is the mean of those it stands for."""
    crop = square_crop(coordinates(), box(8, 4, 32, 32), margin=0.0, size_pixels=16)
    expected = np.arange(8, 40).reshape(16, 2).mean(axis=1)
    np.testing.assert_allclose(crop[0, :, 0], expected, atol=0.5)


@given(
    st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2, *[st.floats(1, 1e5, width=32)] * 2),
    st.integers(1, 80),
    st.integers(1, 60),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_any_box_gives_a_crop(
    face: tuple[float, ...], width: int, height: int, margin: float
) -> None:
    """Any box gives a crop of the size asked for, of pixels that the picture holds."""
    crop = square_crop(coordinates(width, height), box(*face), margin=margin, size_pixels=16)
    assert crop.shape == (16, 16, 3)
    assert crop[..., 0].max() < width
    assert crop[..., 1].max() < height


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        ([], None),
        ([(0, 0, 10, 10, 0.9), (20, 20, 11, 11, 0.7)], 1),
        ([(0, 0, 10, 10, 0.8), (20, 20, 10, 10, 0.9)], 1),
        ([(-30, 0, 40, 40, 0.9), (20, 20, 10, 10, 0.9)], 1),  # its middle is outside
        ([(0, 0, np.nan, 10, 0.9), (20, 20, np.inf, 10, 0.9), (5, 5, 5, 5, 0.8)], 2),
        ([(0, 0, 0.5, 90, 0.9)], None),
        ([(60, 0, 30, 30, 0.9)], None),
    ],
)
def test_the_prominent_face_is_the_largest_in_the_picture(
    faces: Sequence[tuple[float, ...]], expected: int | None
) -> None:
    """The largest face in the picture is taken; of equal ones, the surer one."""
    found = prominent_face(np.array(faces, np.float32).reshape(-1, 5), (48, 64))
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, box(*faces[expected][:4]))


# Any other bytes.


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    """A short video of each kind, with sound."""
    return {
        name: encode_video([numbered(n) for n in range(6)], container=container, codec=codec)
        for name, (container, codec) in CODECS.items()
    }


def assert_is_pictures_or_a_reason(data: bytes) -> None:
    try:
        for picture, repeats in sampled_frames(data, frames_per_second=8, max_frames=50):
            assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
            assert 1 <= repeats <= 50
    except BadSample:
        return


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8),
    st.sampled_from(["anywhere", "head", "tail"]),
)
def test_a_damaged_video_is_pictures_or_a_reason(
    seeds: dict[str, bytes], name: str, flips: list[tuple[float, int]], where: str
) -> None:
    """Changed bytes anywhere, or where the tables are, give BadSample or pictures."""
    data = seeds[name]
    share = 1.0 if where == "anywhere" else min(1.0, 800 / len(data))
    start = 1 - share if where == "tail" else 0.0
    assert_is_pictures_or_a_reason(
        with_flips(data, [(start + place * share, mask) for place, mask in flips])
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"", b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftypisom", b"\0\0\0\x08moov"]),
    st.binary(max_size=400),
)
def test_bytes_behind_any_signature_are_pictures_or_a_reason(
    signature: bytes, noise: bytes
) -> None:
    """Bytes behind a signature give pictures, or BadSample and no other error."""
    assert_is_pictures_or_a_reason(signature + noise)

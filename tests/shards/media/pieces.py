"""Sound and video that FFmpeg encodes on the spot, and crafted damage.

The tests of the media code use them.
"""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

CLOCK_HZ = 12_800
_NEARLY_LOSSLESS = {
    "libx264": {"qp": "1", "preset": "ultrafast"},
    "libvpx": {"crf": "4", "b": "2M"},
}


def tone(
    frequency_hz: float, *, seconds: float = 1.0, rate_hz: int = 48_000, level: float = 0.4
) -> NDArray[np.float64]:
    """A sine, `[num_samples]`."""
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def encode_sound(
    samples: NDArray[np.float64], *, rate_hz: int, container: str, codec: str
) -> bytes:
    """`samples` (mono) in a container that FFmpeg writes."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(codec, rate=rate_hz, layout="mono")
        output.mux(_sound_packets(track, samples, rate_hz))
    return stream.getvalue()


def gray(level: int, *, width: int = 64, height: int = 48) -> Picture:
    """A picture of one shade."""
    return np.full((height, width, 3), level, np.uint8)


def encode_video(
    pictures: Sequence[Picture],
    *,
    times: Sequence[float] | None = None,
    frames_per_second: int = 24,
    container: str = "mp4",
    codec: str = "libx264",
    sound: NDArray[np.float64] | None = None,
    sound_rate_hz: int = 48_000,
    sound_codec: str = "aac",
) -> bytes:
    """A video of `pictures`, nearly without loss, perhaps with a sound track.

    They are shown at `times`, or at a steady rate.
    """
    shown_at = (
        [number / frames_per_second for number in range(len(pictures))] if times is None else times
    )

    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        track: Any = output.add_stream(
            codec, rate=frames_per_second, options=_NEARLY_LOSSLESS.get(codec, {})
        )
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sound_track = (
            None
            if sound is None
            else output.add_stream(sound_codec, rate=sound_rate_hz, layout="mono")
        )

        output.mux(_picture_packets(track, pictures, shown_at))
        if sound_track is not None and sound is not None:
            output.mux(_sound_packets(sound_track, sound, sound_rate_hz))

    return stream.getvalue()


def with_rotation(mp4: bytes, quarter_turns_clockwise: int) -> bytes:
    """`mp4` with a rotation in the header of its first track.

    A phone writes this matrix to say how it was held.
    """
    matrices = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
    a, b, c, d = (value << 16 for value in matrices[quarter_turns_clockwise])
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    at = mp4.index(b"tkhd") + 4 + 40
    return (
        mp4[:at]
        + b"".join(value.to_bytes(4, "big", signed=True) for value in values)
        + mp4[at + 36 :]
    )


def with_flips(data: bytes, flips: Sequence[tuple[float, int]]) -> bytes:
    """`data` with the bytes at some places (0 to 1 of its length) changed by exclusive or."""
    changed = bytearray(data)
    for place, mask in flips:
        changed[int(place * (len(data) - 1))] ^= mask
    return bytes(changed)


def _sound_packets(track: Any, samples: NDArray[np.float64], rate_hz: int) -> list[Any]:
    integers = np.rint(samples * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(integers[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    return [*track.encode(frame), *track.encode(None)]


def _picture_packets(track: Any, pictures: Sequence[Picture], times: Sequence[float]) -> list[Any]:
    track.codec_context.time_base = Fraction(1, CLOCK_HZ)
    packets = []
    for picture, time in zip(pictures, times, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(CLOCK_HZ * time), Fraction(1, CLOCK_HZ)
        packets += track.encode(frame)
    return [*packets, *track.encode(None)]

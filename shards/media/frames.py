"""The pictures that a video shows at chosen instants, one at a time, in bounded memory.

The instants come at a steady rate (`sampled_frames`), or a fixed number of them is spread over the
whole video (`spread_frames`), whose length is known from the packets before anything is decoded.

Frames have times, not positions: phones and screen recorders write 24 frames in one second and 3 in
the next. So the picture at an instant is the frame that is *shown* then, the last frame whose time
has come. For example, a frame held for two seconds counts four times at two instants a second.
Taking every n-th frame would be simpler, but the seconds of such a video would not count alike.
Jumping from key frame to key frame would save decoding, but a picture could be seconds away from
its instant. Frames are decoded in one thread: a reader owns a share of a core, and other readers
own the rest.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.container import DECODER_OPTIONS, MAX_FRAME_PIXELS, VIDEO_DECODERS, open_media

# 28 minutes at 60 frames a second. A limit on instants is not enough, because a file can claim the
# same instant for millions of frames.
_MAX_DECODED_FRAMES = 100_000
# How long the last frame is shown where neither the frame nor its track says it.
_LAST_FRAME_SECONDS = 1 / 25
# Times are compared as floating-point seconds, which are rounded.
_TIME_TOLERANCE_SECONDS = 1e-6


def sampled_frames(
    data: bytes, *, frames_per_second: float | Literal["all"], max_frames: int
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Pictures of `data` at a steady rate, each with the number of instants that show it.

    A picture is `[height, width, 3]` RGB, upright. The instants are 0, 1/rate, 2/rate ... seconds
    after the first frame; with `all`, every frame is shown at one instant. Raises BadSample:
    `empty_video`, `unknown_video_format`, `corrupt_video`, `no_video_track`, `unsupported_codec`,
    `frame_too_large`, `video_too_long` (more than `max_frames` instants).
    """
    with open_media(data, kind="video") as container:
        num_instants = 0

        for frame, start, end in _shown(_decoded(container)):
            if frames_per_second == "all":
                until, repeats = num_instants + 1, 1
            else:
                until = _instants_before(end, frames_per_second)
                repeats = until - max(num_instants, _instants_before(start, frames_per_second))

            if until > max_frames:
                raise BadSample(
                    "video_too_long",
                    f"the video gives more than {max_frames} pictures at {frames_per_second} a "
                    "second, the limit",
                )
            if repeats > 0:
                num_instants = until
                yield _upright_rgb(frame), repeats

        if num_instants == 0:
            raise BadSample("corrupt_video", "the video track has no picture that can be decoded")


def spread_frames(data: bytes, *, num_frames: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Pictures of `data` spread over all of it, each with the number of instants that show it.

    A picture is `[height, width, 3]` RGB, upright. The instants are the middles of `num_frames`
    equal parts of the video. Where decoding ends early, the last picture is taken for the rest of
    the instants. Raises BadSample as `sampled_frames` does.
    """
    seconds = _shown_seconds(data)
    instants = (np.arange(num_frames) + 0.5) * seconds / num_frames

    with open_media(data, kind="video") as container:
        num_taken, last = 0, None
        for frame, _, end in _shown(_decoded(container)):
            until = int(np.searchsorted(instants, end - _TIME_TOLERANCE_SECONDS))
            if until > num_taken:
                yield _upright_rgb(frame), until - num_taken
                num_taken = until
            if num_taken == num_frames:
                return
            last = frame

        if last is None:
            raise BadSample("corrupt_video", "the video track has no picture that can be decoded")
        yield _upright_rgb(last), num_frames - num_taken


def check_video_header(data: bytes) -> int:
    """The number of sound tracks; BadSample unless `data` opens and has pictures of a known codec.

    (Almost) nothing is decoded.
    """
    with open_media(data, kind="video") as container:
        video_track(container)
        return len(container.streams.audio)


def video_track(container: InputContainer) -> VideoStream:
    """The pictures' track. Raises BadSample: `no_video_track` and others, as `sampled_frames`."""
    track = container.streams.best("video")
    if not isinstance(track, VideoStream) or track.disposition & Disposition.attached_pic:
        raise BadSample("no_video_track", f"the {container.format.name} file has no video track")

    codec = track.codec_context
    if codec is None or codec.codec.name not in VIDEO_DECODERS:
        name = codec.codec.name if codec else "unknown"
        raise BadSample(
            "unsupported_codec",
            f"the codec of the video is {name}, expected {', '.join(sorted(VIDEO_DECODERS))}",
        )

    _check_size(codec.width, codec.height)
    return track


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise BadSample(
            "frame_too_large",
            f"the pictures have {width} x {height} pixels, expected at most {MAX_FRAME_PIXELS} in "
            "all",
        )


def _decoded(container: InputContainer) -> Iterator[VideoFrame]:
    track = video_track(container)
    track.codec_context.options = dict(DECODER_OPTIONS)

    for position, frame in enumerate(container.decode(track)):
        if position >= _MAX_DECODED_FRAMES:
            raise BadSample(
                "video_too_long", f"the video has more than {_MAX_DECODED_FRAMES} frames, the limit"
            )
        # The size may change from one frame to the next.
        _check_size(frame.width, frame.height)
        yield frame


def _shown(frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, float, float]]:
    """(frame, when it appears, when the next one takes its place), in seconds since the first.

    Times never go back: a frame whose time lies before that of its predecessor appears together
    with it, and the predecessor is not shown at all.
    """
    held: VideoFrame | None = None
    origin = start = 0.0

    # A frame is passed on one step late, because it is shown until the next one appears.
    for frame in frames:
        # A frame without a time appears a usual frame's length after the one before it.
        time = float(frame.time) if frame.time is not None else origin + start + _LAST_FRAME_SECONDS
        if held is None:
            origin = time
        else:
            end = max(start, time - origin)
            yield held, start, end
            start = end
        held = frame

    if held is not None:
        yield held, start, start + _own_seconds(held)


def _shown_seconds(data: bytes) -> float:
    """Seconds from the first picture's start to the last one's end; 0 if packets carry no times."""
    first, last = np.inf, -np.inf

    # Packets need not come in the order of their times, so both ends are looked for in all of them.
    with open_media(data, kind="video") as container:
        for position, packet in enumerate(container.demux(video_track(container))):
            if position >= _MAX_DECODED_FRAMES:
                raise BadSample(
                    "video_too_long",
                    f"the video has more than {_MAX_DECODED_FRAMES} frames, the limit",
                )
            if packet.pts is not None and not packet.is_discard:
                start = float(packet.pts * packet.time_base)
                first, last = min(first, start), max(last, start + _own_seconds(packet))

    return max(0.0, last - first) if np.isfinite(last) else 0.0


def _own_seconds(frame: "VideoFrame | Packet[VideoStream]") -> float:
    seconds = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
    return seconds if seconds > 0 else _LAST_FRAME_SECONDS


def _instants_before(seconds: float, frames_per_second: float) -> int:
    """How many of the instants 0, 1/rate, 2/rate ... lie before `seconds`."""
    return (
        int(np.ceil((seconds - _TIME_TOLERANCE_SECONDS) * frames_per_second)) if seconds > 0 else 0
    )


def _upright_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    # The rotation that a camera held sideways notes is counterclockwise, and so is that of `rot90`.
    quarter_turns = round(frame.rotation / 90) % 4

    return np.ascontiguousarray(np.rot90(picture, quarter_turns))

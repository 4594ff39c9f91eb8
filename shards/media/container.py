"""Opening media from strangers with FFmpeg: the only door to it, for sound and for pictures.

FFmpeg guesses a format from the bytes, and some of the formats it knows (HLS, concat, DASH, SDP)
are lists of other files and addresses, which it would then open. So the format is recognized here,
by its first bytes, among the six a shard may hold, and FFmpeg is told which one it is; nothing it
finds inside may open anything else. Only the decoders those formats really use are allowed, and no
picture over `MAX_FRAME_PIXELS` is allocated, whatever a header says.

A crash inside a codec still ends the process: that is why readers are processes of their own.
soundfile was measured as a second, faster path for flac and wav and lost: after the probing below
was cut short, FFmpeg needs 0.7 ms for a 3.3 s utterance at 16 kHz, soundfile 0.6 ms. FFmpeg's log
stays as PyAV leaves it: off.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import av
from av.container import InputContainer

from shards.errors import BadSample
from shards.media.isobmff import check_complete, check_tables
from shards.media.ogg import check_pages

# The largest picture a camera film has (4096 x 2304); one costs 28 MB as RGB.
MAX_FRAME_PIXELS = 4096 * 2304

AUDIO_DECODERS = frozenset(
    {
        "aac",
        "ac3",
        "alac",
        "eac3",
        "flac",
        "mp3",
        "mp3float",
        "opus",
        "libopus",
        "vorbis",
        "libvorbis",
    }
    | {
        "pcm_alaw",
        "pcm_mulaw",
        "pcm_s8",
        "pcm_u8",
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_s24be",
        "pcm_s32le",
    }
    | {"pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "adpcm_ima_wav", "adpcm_ms"}
)
VIDEO_DECODERS = frozenset(
    {
        "av1",
        "h264",
        "hevc",
        "libdav1d",
        "libvpx",
        "libvpx-vp9",
        "mjpeg",
        "mpeg1video",
        "mpeg2video",
        "mpeg4",
    }
    | {"vp8", "vp9"}
)
# For FFmpeg's own look into the streams, and again for each decoder that is opened afterwards.
DECODER_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS), "threads": "1"}
_OPTIONS = DECODER_OPTIONS | {
    "codec_whitelist": ",".join(sorted(AUDIO_DECODERS | VIDEO_DECODERS)),
    "protocol_whitelist": "",
    "max_streams": "32",
    # By default 2,500 packets of a WAV file are searched for a DTS stream: 9 ms instead of 0.4 ms
    # for five seconds.
    "max_probe_packets": "1",
}

# Reasons that call the file itself broken; every other one says what an intact file lacks or has
# too much of.
DAMAGE_CODES = frozenset(
    {"empty_audio", "unknown_audio_format", "corrupt_audio", "truncated_audio"}
    | {"empty_video", "unknown_video_format", "corrupt_video"}
)

_ISO_MEDIA_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide"}
)
_PADDING = re.compile(rb"\x00*")
_MPEG_LAYER_3 = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")


@contextmanager
def open_media(data: bytes, *, kind: Literal["audio", "video"]) -> Iterator[InputContainer]:
    """Open `data` for demuxing and decoding; whatever FFmpeg raises inside the block is the file's
    fault.

    Raises BadSample: `empty_*`, `unknown_*_format` or `corrupt_*`, with `kind` for the star.
    """
    if not data:
        raise BadSample(f"empty_{kind}", "the file has no bytes")
    format_name = recognize_format(data)
    if format_name is None:
        expected = "flac, wav, mp3, ogg, mp4 or matroska"
        raise BadSample(
            f"unknown_{kind}_format", f"begins with {data[:12].hex()}, expected {expected}"
        )
    if format_name == "mov":
        check_complete(data, code=f"corrupt_{kind}")
        check_tables(data, code=f"corrupt_{kind}")
    elif format_name == "ogg":
        check_pages(data, code=f"corrupt_{kind}")
    try:
        with av.open(
            io.BytesIO(data),
            "r",
            format=format_name,
            options=dict(_OPTIONS),
            metadata_errors="replace",
        ) as container:
            yield container
    except av.FFmpegError as error:
        raise BadSample(f"corrupt_{kind}", f"{format_name}: {error.strerror}") from error


def recognize_format(data: bytes) -> str | None:
    """FFmpeg's name for the format whose signature `data` carries (behind an ID3 tag, if any), or
    None.
    """
    start = _end_of_id3(data)
    head = data[start : start + 12]
    if head[:4] == b"fLaC":
        return "flac"
    if start == 0:
        if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
            return "wav"
        if head[:4] == b"OggS":
            return "ogg"
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return "matroska"
        if head[4:8] in _ISO_MEDIA_BOXES:
            return "mov"
    padding = _PADDING.match(data, start)
    return "mp3" if _MPEG_LAYER_3.match(data, padding.end() if padding else start) else None


def _end_of_id3(data: bytes) -> int:
    """Where the ID3v2 tags in front of mp3 and some flac files end; their sizes have 7 bits a
    byte.
    """
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size
    return position

"""Opening media from strangers: the only place where FFmpeg opens a file, for sound and pictures.

FFmpeg guesses a format from the bytes. Some of the formats it knows (HLS, concat, DASH, SDP) are
lists of other files and addresses, which FFmpeg would then open. So this module recognizes the
format by the first bytes, as one of the six that a shard may hold, and tells FFmpeg which one it
is; nothing inside a file may make FFmpeg open anything else. Only the decoders that those six
formats really use are allowed, and no picture over `MAX_FRAME_PIXELS` is allocated, whatever a
header says.

A crash inside a codec still ends the process: that is why readers are processes of their own.
soundfile was measured as a second path for flac and wav, and its gain was too small: with the
short probing below, FFmpeg needs 0.7 ms for a 3.3 s utterance at 16 kHz, and soundfile 0.6 ms.
(Native flac is read by soundfile for another reason, its checksums: see `shards.media.audio`.)
FFmpeg's log stays off, as PyAV leaves it.
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

# The size of the largest pictures in a camera's film, 4096 x 2304; one costs 28 MB as RGB.
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
# FFmpeg takes these twice: for its own look into the streams when a file is opened, and again for
# each decoder that is opened afterwards.
DECODER_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS), "threads": "1"}
_OPTIONS = DECODER_OPTIONS | {
    "codec_whitelist": ",".join(sorted(AUDIO_DECODERS | VIDEO_DECODERS)),
    "protocol_whitelist": "",
    "max_streams": "32",
    # By default FFmpeg searches 2,500 packets of a WAV file for a DTS stream. That takes 9 ms for
    # five seconds of sound, instead of 0.4 ms.
    "max_probe_packets": "1",
}

# The reasons that call the file itself broken. All other reasons are about an intact file, which
# lacks something (a sound track) or has too much of something (length).
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
    """Open `data` for demuxing and decoding; an error of FFmpeg inside the block is a BadSample.

    Raises BadSample: `empty_*`, `unknown_*_format` or `corrupt_*`, where `*` stands for `kind`.
    """
    if not data:
        raise BadSample(f"empty_{kind}", "the file has no bytes")

    format_name = recognize_format(data)
    if format_name is None:
        expected = "flac, wav, mp3, ogg, mp4 or matroska"
        raise BadSample(
            f"unknown_{kind}_format",
            f"the file begins with the bytes {data[:12].hex()}, expected {expected}",
        )

    # These checks come before FFmpeg sees the file: it allocates what an mp4's tables claim, and
    # it drops damaged pages of an ogg in silence.
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
    """FFmpeg's name for the format whose signature `data` carries; None for any other data.

    ID3 tags before the signature of a flac or mp3 file are skipped.
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
    """Where the ID3v2 tags end that stand in front of mp3 and some flac files; 0 without a tag."""
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        # Each byte of a tag's size carries 7 bits: its highest bit is always 0.
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size

    return position

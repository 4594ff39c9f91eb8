"""Opening media from strangers: the only place where FFmpeg opens a file, for sound and pictures.

FFmpeg guesses a format from the bytes. Some of the formats it knows (HLS, concat, DASH, SDP) are
lists of other files and addresses, which FFmpeg would then open. So this module recognizes the
format by the first bytes, as one of the six that a shard may hold (or one of those that an import
turns into one of the six), and tells FFmpeg which one it is; nothing inside a file may make FFmpeg
open anything else. Only the decoders that those formats really use are allowed, and no picture over
`MAX_FRAME_PIXELS` is allocated, whatever a header says.

A crash inside a codec still ends the process: that is why readers are processes of their own.
soundfile was measured as a second path for flac and wav, and its gain was too small: with the
short probing below, FFmpeg needs 0.7 ms for a 3.3 s utterance at 16 kHz, and soundfile 0.6 ms.
(Native flac is read by soundfile for another reason, its checksums: see `shards.media.audio`.)
FFmpeg's log stays off, as PyAV leaves it.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import av
from av.container import InputContainer

from shards.errors import BadSample
from shards.media.formats import recognize_format, recognize_source
from shards.media.isobmff import check_complete, check_tables
from shards.media.joined import separate_files
from shards.media.matroska import check_matroska, matroska_layout
from shards.media.ogg import check_pages
from shards.media.riff import check_wav_size
from shards.media.source_ends import check_source_end

Kind = Literal["audio", "video"]

# The size of the largest pictures in a camera's film, 4096 x 2304; one costs 28 MB as RGB.
MAX_FRAME_PIXELS = 4096 * 2304

_SOUND_CODECS = """
aac ac3 alac eac3 flac mp3 mp3float opus libopus vorbis libvorbis
pcm_alaw pcm_mulaw pcm_s8 pcm_u8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be
pcm_f32le pcm_f32be pcm_f64le pcm_f64be
adpcm_g726 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha
amrnb amrwb libopencore_amrnb libopencore_amrwb gsm gsm_ms speex nellymoser
ape mp1 mp1float mp2 mp2float tta wavpack wmalossless wmapro wmav1 wmav2
"""
_PICTURE_CODECS = """
av1 h264 hevc libdav1d libvpx libvpx-vp9 mjpeg mpeg1video mpeg2video mpeg4 vp8 vp9
flv h263 msmpeg4 msmpeg4v2 prores theora vc1 wmv1 wmv2 wmv3
"""
AUDIO_DECODERS = frozenset(_SOUND_CODECS.split())
VIDEO_DECODERS = frozenset(_PICTURE_CODECS.split())
# FFmpeg takes these twice: for its own look into the streams when a file is opened, and again for
# each decoder that is opened afterwards.
DECODER_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS), "threads": "1"}
_OPTIONS = DECODER_OPTIONS | {
    "codec_whitelist": ",".join(sorted(AUDIO_DECODERS | VIDEO_DECODERS)),
    "protocol_whitelist": "",
    "max_streams": "32",
}
_SHORT_PROBE = {
    # By default FFmpeg searches 2,500 packets of a WAV file for a DTS stream. That takes 9 ms for
    # five seconds of sound, instead of 0.4 ms.
    "max_probe_packets": "1",
}

# The last frame may lack its own length, and recorders round their durations.
_DURATION_TOLERANCE_SECONDS = 0.1

# The reasons that call the file itself broken. All other reasons are about an intact file, which
# lacks something (a sound track) or has too much of something (length).
DAMAGE_CODES = frozenset(
    {"empty_audio", "unknown_audio_format", "corrupt_audio", "truncated_audio"}
    | {"empty_video", "unknown_video_format", "corrupt_video", "truncated_video"}
)


@contextmanager
def open_media(data: bytes, *, kind: Kind, is_source: bool = False) -> Iterator[InputContainer]:
    """Open `data` for demuxing and decoding; an error of FFmpeg inside the block is a BadSample.

    `is_source` says that a format is welcome which only an import reads. Raises BadSample:
    `empty_*`, `unknown_*_format`, `corrupt_*` or `truncated_*`, where `*` stands for `kind`.
    """
    format_name = _checked_format(data, kind, is_source)

    with _opened(data, format_name, kind, {} if is_source else _SHORT_PROBE) as container:
        _check_index(data, container, kind)
        yield container


@contextmanager
def _opened(
    data: bytes, format_name: str, kind: Kind, more_options: Mapping[str, str]
) -> Iterator[InputContainer]:
    try:
        with av.open(
            io.BytesIO(data),
            "r",
            format=format_name,
            options={**_OPTIONS, **more_options},
            metadata_errors="replace",
        ) as container:
            yield container
    except av.FFmpegError as error:
        raise BadSample(f"corrupt_{kind}", f"{format_name}: {error.strerror}") from error


def _checked_format(data: bytes, kind: Kind, is_source: bool) -> str:
    """The format of `data`, whose damage was looked for before FFmpeg sees the file.

    FFmpeg allocates what an mp4's tables claim, drops damaged pages of an ogg in silence, and plays
    what is left of a wav or matroska file that was cut.
    """
    if not data:
        raise BadSample(f"empty_{kind}", "the file has no bytes")

    format_name = recognize_source(data) if is_source else recognize_format(data)
    if format_name is None:
        expected = "flac, wav, mp3, ogg, mp4 or matroska"
        raise BadSample(
            f"unknown_{kind}_format",
            f"the file begins with the bytes {data[:12].hex()}, expected {expected}",
        )

    check_source_end(data, format_name, code=f"truncated_{kind}")
    if format_name == "mov":
        check_complete(data, code=f"corrupt_{kind}")
        check_tables(data, code=f"corrupt_{kind}")
    elif format_name == "ogg":
        check_pages(data, code=f"corrupt_{kind}")
    elif format_name == "matroska":
        check_matroska(data, code=f"truncated_{kind}")
        _check_live_duration(data, kind)
    elif format_name == "wav":
        check_wav_size(data)

    # Pictures have times, which begin anew in a second file: there is no one order of the two.
    if kind == "video" and len(separate_files(data, code="corrupt_video")) > 1:
        raise BadSample(
            "corrupt_video", "several videos lie one behind another in this file; split it"
        )
    return format_name


def _check_live_duration(data: bytes, kind: Kind) -> None:
    """Raise BadSample when a matroska file of unknown size ends long before its stated duration.

    This needs the times of all packets, so it is done only where nothing quicker shows a cut.
    """
    stated = matroska_layout(data).duration_seconds
    if stated is None:
        return

    last = 0.0
    with _opened(data, "matroska", kind, _SHORT_PROBE) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    if last < stated - _DURATION_TOLERANCE_SECONDS:
        raise BadSample(
            f"truncated_{kind}",
            f"matroska: the last packet ends after {last:.3f} s, expected {stated:.3f} s",
        )


def _check_index(data: bytes, container: InputContainer, kind: Kind) -> None:
    """Raise BadSample when the last entry of an mp4's index lies behind the end of the file."""
    if "mov" not in container.format.name:
        return

    for stream in container.streams:
        if len(stream.index_entries):
            last = stream.index_entries[-1]
            if last.pos + last.size > len(data):
                raise BadSample(
                    f"truncated_{kind}",
                    f"mp4: the last sample should end at byte {last.pos + last.size}, but the file "
                    f"ends at byte {len(data)}",
                )

"""Files that a shard does not hold become files that it does: FLAC, MP4 or Matroska.

Sound is decoded and written as 16-bit FLAC at its own sampling rate: lossless from there on, read
by everybody, and with checksums. One and two channels stay; more become one, as they would when
they are labeled. Pictures are never encoded anew: their packets move into another container as they
are, and a codec that does not fit makes the file unusable, with a reason. Keeping lossy sound as it
is, in another container, was left out: it loses the encoder delay, and so the exact length.
"""

import io
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import av
import numpy as np
import soundfile
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from shards.errors import BadSample
from shards.media.blocks import Clock, SoundBlock, file_blocks
from shards.media.container import open_media
from shards.media.downmix import Downmix
from shards.media.frames import video_track
from shards.media.joined import separate_files
from shards.media.sound_track import sound_track

_MAX_CHANNELS = 2


def write_flac(
    data: bytes, target: BinaryIO, *, max_seconds: float, track_number: int | None = None
) -> None:
    """The sound of `data`, in any format that an import reads, as 16-bit FLAC into `target`.

    `track_number` counts the sound tracks from 1; None stands for the default one. Raises
    BadSample as `decode_audio` does, and `changing_sound`.
    """
    files = separate_files(data, code="corrupt_audio")
    downmix = Downmix()
    _write(_converted(files, downmix, max_seconds, track_number), target)

    # Surround sound whose mean loses the voice is mixed a second time, as when it is labeled.
    weights = downmix.corrections()
    if weights:
        target.seek(0)
        target.truncate()
        _write(_converted(files, Downmix(weights), max_seconds, track_number), target)


def as_flac(data: bytes, *, max_seconds: float, track_number: int | None = None) -> bytes:
    """As `write_flac`, in memory."""
    target = io.BytesIO()
    write_flac(data, target, max_seconds=max_seconds, track_number=track_number)
    return target.getvalue()


def remuxed(
    data: bytes, container: str, *, with_pictures: bool, track_number: int | None = None
) -> bytes:
    """The packets of `data` in FFmpeg's `container`: the pictures, and one sound track if any.

    Equal input gives equal bytes. Raises BadSample: `cannot_remux`, and what opening raises.
    """
    target = io.BytesIO()
    with open_media(data, kind="video" if with_pictures else "audio", is_source=True) as source:
        chosen: list[Stream] = [video_track(source)] if with_pictures else []
        if source.streams.audio:
            chosen.append(sound_track(source, track_number))
        try:
            # Without this flag the file gets random numbers and the version of FFmpeg.
            with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as output:
                _copy_packets(source, output, chosen)
        except (av.FFmpegError, ValueError) as error:
            names = ", ".join(str(stream.codec_context.name) for stream in chosen)
            raise BadSample(
                "cannot_remux", f"{names} cannot be put into {container}: {error}; convert the file"
            ) from error

    return target.getvalue()


def _copy_packets(source: InputContainer, output: OutputContainer, chosen: list[Stream]) -> None:
    copies = {stream.index: output.add_stream_from_template(stream) for stream in chosen}
    for packet in source.demux(*chosen):
        # The last packet of each stream is empty.
        if packet.dts is None and packet.pts is None:
            continue
        _set_time(packet)
        packet.stream = copies[packet.stream_index]
        output.mux(packet)


def _set_time(packet: "Packet[Stream]") -> None:
    """Take the time of decoding for that of showing, where AVI knows no other."""
    if packet.pts is None:
        codec = packet.stream.codec_context
        if isinstance(codec, VideoCodecContext) and codec.has_b_frames:
            raise ValueError("its pictures are stored in another order than they are shown")
        packet.pts = packet.dts


def _converted(
    files: list[bytes], downmix: Downmix, max_seconds: float, track_number: int | None
) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Blocks (sampling rate, `[num_channels, num_samples]`) of `files` one behind another."""
    clock = Clock(max_seconds)
    for file in files:
        for block in file_blocks(file, clock, track_number=track_number, is_source=True):
            yield block.rate_hz, _as_int16(block, downmix)


def _as_int16(block: SoundBlock, downmix: Downmix) -> NDArray[np.int16]:
    if block.channels.dtype == np.int16 and len(block.channels) <= _MAX_CHANNELS:
        return block.channels.astype(np.int16, copy=False)

    if len(block.channels) > _MAX_CHANNELS:
        values = downmix.mixed(block)[np.newaxis]
    else:
        values = (block.channels.astype(np.float32) - block.offset) / block.full_scale
    if not np.isfinite(values).all():
        raise BadSample("non_finite_audio", "the sound holds NaN or infinite samples")
    return np.clip(np.rint(values * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)


def _write(blocks: Iterator[tuple[int, NDArray[np.int16]]], target: BinaryIO) -> None:
    first = next(blocks, None)
    if first is None:
        raise BadSample("audio_too_short", "got no sound that can be decoded")

    rate_hz, num_channels = first[0], len(first[1])
    try:
        with soundfile.SoundFile(
            target, "w", rate_hz, num_channels, format="FLAC", subtype="PCM_16"
        ) as file:
            for rate, channels in chain([first], blocks):
                if (rate, len(channels)) != (rate_hz, num_channels):
                    raise BadSample(
                        "changing_sound",
                        f"the sound changes from {rate_hz} Hz and {num_channels} channels to "
                        f"{rate} Hz and {len(channels)}, expected the same throughout",
                    )
                file.write(channels.T)
    except soundfile.LibsndfileError as error:
        raise BadSample("cannot_convert", f"flac: {error.error_string}") from error

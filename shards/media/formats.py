"""Which format a file has, by its first bytes.

The formats that a shard may hold are six (`recognize_format`). An import also takes others, which
it turns into one of the six (`recognize_source`). FFmpeg's own guess is not asked: some formats
that it knows are lists of other files and addresses.
"""

import re

from shards.media.mpeg_audio import end_of_id3
from shards.media.riff import is_wav

_ISO_MEDIA_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide"}
)
_PADDING = re.compile(rb"\x00*")
_MPEG_LAYER_3 = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")

# FFmpeg's name of a format -> what a file of it begins with.
_SOURCE_SIGNATURES = {
    "aac": re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"),
    "ac3": re.compile(rb"\x0b\x77"),
    "aiff": re.compile(rb"FORM....AIF[FC]", re.DOTALL),
    "amr": re.compile(rb"#!AMR"),
    "ape": re.compile(rb"MAC "),
    "asf": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "au": re.compile(rb"\.snd"),
    "avi": re.compile(rb"RIFF....AVI ", re.DOTALL),
    "caf": re.compile(rb"caff"),
    "flv": re.compile(rb"FLV\x01"),
    "mp3": re.compile(rb"\xff[\xf4-\xf7\xfc-\xff\xe4-\xe7]"),
    "mpeg": re.compile(rb"\x00\x00\x01\xba"),
    "mpegts": re.compile(rb"\x47.{187}\x47", re.DOTALL),
    "tta": re.compile(rb"TTA1"),
    "w64": re.compile(rb"riff\x2e\x91\xcf\x11"),
    "wv": re.compile(rb"wvpk"),
}


def recognize_format(data: bytes) -> str | None:
    """FFmpeg's name for the format whose signature `data` carries; None for any other data.

    ID3 tags before the signature of a flac or mp3 file are skipped.
    """
    start = end_of_id3(data)
    head = data[start : start + 12]
    if head[:4] == b"fLaC":
        return "flac"

    if start == 0:
        if is_wav(head):
            return "wav"
        if head[:4] == b"OggS":
            return "ogg"
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return "matroska"
        if head[4:8] in _ISO_MEDIA_BOXES:
            return "mov"

    padding = _PADDING.match(data, start)
    return "mp3" if _MPEG_LAYER_3.match(data, padding.end() if padding else start) else None


def recognize_source(data: bytes) -> str | None:
    """As `recognize_format`, also for the formats that only an import reads."""
    name = recognize_format(data)
    if name is not None:
        return name

    start = end_of_id3(data)
    return next(
        (name for name, form in _SOURCE_SIGNATURES.items() if form.match(data, start)), None
    )

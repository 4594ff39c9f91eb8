"""A sample: its fields, and the only code that turns the bytes of members into fields and back.

Members may come from anybody, so every field is checked here, once, against a fixed limit. The
media code and the labelers get a `Sample` whose metadata has the promised types. `webdataset`'s own
decoders were left out: they guess by extension and unpickle `.pyd` and `.pickle`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shards.emotions import canonical_emotion
from shards.errors import BadSample
from shards.samples.metadata import METADATA_EXTENSION, decode_text, encode_metadata, parse_metadata
from shards.samples.npy import decode_features, encode_features

AUDIO_EXTENSIONS = frozenset({"flac", "wav", "mp3", "ogg", "opus", "m4a"})
VIDEO_EXTENSIONS = frozenset({"mp4", "mkv", "webm"})
FACE_EXTENSION = "face.npy"
TRANSCRIPT_EXTENSION = "txt"
ALLOWED_EXTENSIONS = (
    AUDIO_EXTENSIONS | VIDEO_EXTENSIONS | {FACE_EXTENSION, TRANSCRIPT_EXTENSION, METADATA_EXTENSION}
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One utterance as its shard holds it; sound and video are still encoded.

    `audio_format` and `video_format` are extensions ("flac", "mp4"). Each of them is given exactly
    when `audio` or `video`, the bytes of that format, are given. `face_features` is
    `[num_frames, dim]`. An empty `txt` and a `face.npy` of no frames count as absent: a packer
    writes them into a sample that lacks a field which the other samples of the shard have. Samples
    are not compared by value, because arrays cannot be.
    """

    key: str
    audio: bytes | None = None
    audio_format: str | None = None
    video: bytes | None = None
    video_format: str | None = None
    face_features: NDArray[np.float32] | None = None
    transcript: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_format("audio", self.audio, self.audio_format, AUDIO_EXTENSIONS)
        _check_format("video", self.video, self.video_format, VIDEO_EXTENSIONS)

    @property
    def speaker(self) -> str | None:
        """The speaker's name; a whole number in the metadata becomes a name: 17 gives "17"."""
        speaker = self.metadata.get("speaker")
        return None if speaker is None else str(speaker)

    @property
    def language(self) -> str | None:
        """The language that is spoken, as the metadata has it ("en", "de-AT"); None if unknown."""
        language = self.metadata.get("language")
        return language if isinstance(language, str) and language.strip() else None

    @property
    def emotion(self) -> str | None:
        """The true emotion by the project's name; None if it is unknown or none of the seven."""
        emotion = self.metadata.get("emotion")
        return canonical_emotion(emotion) if isinstance(emotion, str) else None


def parse_sample(key: str, members: Mapping[str, bytes]) -> Sample:
    """The sample in `members` (extension -> payload).

    Raises BadSample for an unknown, doubled or unreadable field, and for a sample without media.
    """
    unknown = sorted(set(members) - ALLOWED_EXTENSIONS)
    if unknown:
        raise BadSample(
            "unknown_extension",
            f"got the fields {', '.join(unknown)}, expected only "
            f"{', '.join(sorted(ALLOWED_EXTENSIONS))}",
        )

    audio_format = _only_one("audio", AUDIO_EXTENSIONS, members)
    video_format = _only_one("video", VIDEO_EXTENSIONS, members)
    features = decode_features(members[FACE_EXTENSION]) if FACE_EXTENSION in members else None
    if (
        audio_format is None
        and video_format is None
        and not members.keys() & {FACE_EXTENSION, TRANSCRIPT_EXTENSION}
    ):
        raise BadSample(
            "no_media",
            "the sample has no audio, video, face features or transcript, expected at least one",
        )

    return Sample(
        key=key,
        audio=None if audio_format is None else members[audio_format],
        audio_format=audio_format,
        video=None if video_format is None else members[video_format],
        video_format=video_format,
        face_features=None if features is None or len(features) == 0 else features,
        transcript=_parse_transcript(members[TRANSCRIPT_EXTENSION])
        if TRANSCRIPT_EXTENSION in members
        else None,
        metadata=parse_metadata(members[METADATA_EXTENSION])
        if METADATA_EXTENSION in members
        else {},
    )


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """The members of `sample` (extension -> payload); the inverse of `parse_sample`.

    Samples with equal fields give equal bytes.
    """
    members = {METADATA_EXTENSION: encode_metadata(sample.metadata)}

    if sample.audio is not None and sample.audio_format is not None:
        members[sample.audio_format] = sample.audio
    if sample.video is not None and sample.video_format is not None:
        members[sample.video_format] = sample.video
    if sample.face_features is not None:
        members[FACE_EXTENSION] = encode_features(sample.face_features)
    if sample.transcript is not None:
        members[TRANSCRIPT_EXTENSION] = sample.transcript.encode()

    return members


def _check_format(
    name: str, payload: bytes | None, extension: str | None, known: frozenset[str]
) -> None:
    if (payload is None) != (extension is None) or (
        extension is not None and extension not in known
    ):
        expected = f"one of {', '.join(sorted(known))} when {name} is given, otherwise None"
        raise ValueError(f"{name}_format: got {extension!r}, expected {expected}")


def _only_one(name: str, extensions: frozenset[str], members: Mapping[str, bytes]) -> str | None:
    present = sorted(extensions & members.keys())
    if len(present) > 1:
        raise BadSample(
            f"ambiguous_{name}", f"got {' and '.join(present)}, expected one {name} field"
        )

    return present[0] if present else None


def _parse_transcript(data: bytes) -> str | None:
    return decode_text("bad_transcript", TRANSCRIPT_EXTENSION, data).strip() or None

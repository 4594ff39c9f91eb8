"""What a sample is: the fields a shard may carry, and the only code that turns member bytes into them and back.

Members come from anywhere, so every field is checked here, once, against a written limit; what reaches the media code
and the labelers is a `Sample` whose metadata has the promised types. `webdataset`'s own decoders were left out: they
guess by extension, unpickle `.pyd`/`.pickle` and let `json` recurse as deep as its input asks.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shards.emotions import canonical_emotion
from shards.errors import BadSample
from shards.samples.keys import speaker_problem
from shards.samples.npy import decode_features, encode_features

AUDIO_EXTENSIONS = frozenset({"flac", "wav", "mp3", "ogg", "opus", "m4a"})
VIDEO_EXTENSIONS = frozenset({"mp4", "mkv", "webm"})
FACE_EXTENSION = "face.npy"
TRANSCRIPT_EXTENSION = "txt"
METADATA_EXTENSION = "json"
ALLOWED_EXTENSIONS = AUDIO_EXTENSIONS | VIDEO_EXTENSIONS | {FACE_EXTENSION, TRANSCRIPT_EXTENSION, METADATA_EXTENSION}

# An hour of speech is about 60 kB of text; the metadata holds a few dozen numbers.
MAX_TEXT_BYTES = 1 << 20
MAX_METADATA_DEPTH = 16

_RATED_CHANNELS = frozenset({"voice", "face", "audiovisual"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One utterance as its shard holds it, media still encoded.

    `audio_format` and `video_format` are extensions ("flac", "mp4"); each is given exactly when its bytes are.
    `face_features` is `[num_frames, dim]`. An empty `txt` and a `face.npy` of no frames count as absent: a packer
    writes them where a sample lacks the field that its neighbours have. Not compared by value, as arrays are not.
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
        """Who speaks; a whole number in the metadata is taken as a name."""
        speaker = self.metadata.get("speaker")
        return None if speaker is None else str(speaker)

    @property
    def emotion(self) -> str | None:
        """The true emotion under the project's name for it; None where it is not known or not one of the seven."""
        emotion = self.metadata.get("emotion")
        return canonical_emotion(emotion) if isinstance(emotion, str) else None


def parse_sample(key: str, members: Mapping[str, bytes]) -> Sample:
    """The sample in `members` (extension -> payload). Raises BadSample for anything outside the contract."""
    unknown = sorted(set(members) - ALLOWED_EXTENSIONS)
    if unknown:
        raise BadSample(
            "unknown_extension", f"got {', '.join(unknown)}, known: {', '.join(sorted(ALLOWED_EXTENSIONS))}"
        )
    audio_format = _only_one("audio", AUDIO_EXTENSIONS, members)
    video_format = _only_one("video", VIDEO_EXTENSIONS, members)
    features = decode_features(members[FACE_EXTENSION]) if FACE_EXTENSION in members else None
    if audio_format is None and video_format is None and not members.keys() & {FACE_EXTENSION, TRANSCRIPT_EXTENSION}:
        raise BadSample("no_media", "the sample has neither audio, video, face features nor a transcript")
    return Sample(
        key=key,
        audio=None if audio_format is None else members[audio_format],
        audio_format=audio_format,
        video=None if video_format is None else members[video_format],
        video_format=video_format,
        face_features=None if features is None or len(features) == 0 else features,
        transcript=_parse_transcript(members[TRANSCRIPT_EXTENSION]) if TRANSCRIPT_EXTENSION in members else None,
        metadata=parse_metadata(members[METADATA_EXTENSION]) if METADATA_EXTENSION in members else {},
    )


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """The members of `sample`, extension -> payload; equal samples give equal bytes. Inverse of `parse_sample`."""
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


def encode_metadata(metadata: Mapping[str, object]) -> bytes:
    """`metadata` as canonical JSON: sorted names, no spaces, UTF-8. Raises ValueError for NaN."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _check_format(name: str, payload: bytes | None, extension: str | None, known: frozenset[str]) -> None:
    if (payload is None) != (extension is None) or (extension is not None and extension not in known):
        expected = f"one of {', '.join(sorted(known))} exactly when {name} is given"
        raise ValueError(f"{name}_format: got {extension!r}, expected {expected}")


def _only_one(name: str, extensions: frozenset[str], members: Mapping[str, bytes]) -> str | None:
    present = sorted(extensions & members.keys())
    if len(present) > 1:
        raise BadSample(f"ambiguous_{name}", f"got {' and '.join(present)}, expected one {name} field")
    return present[0] if present else None


def _parse_transcript(data: bytes) -> str | None:
    return _decode_text("bad_transcript", TRANSCRIPT_EXTENSION, data).strip() or None


def _decode_text(code: str, extension: str, data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise BadSample(code, f"{extension} has {len(data)} bytes, at most {MAX_TEXT_BYTES} are read")
    try:
        # "utf-8-sig": Windows programs put a byte order mark in front, which is not part of the text.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(code, f"{extension} is not UTF-8: {error.reason} at byte {error.start}") from error


def parse_metadata(data: bytes) -> dict[str, object]:
    """The `json` of a sample, checked. Raises BadSample (`bad_json`, `bad_metadata`)."""
    text = _decode_text("bad_json", METADATA_EXTENSION, data)
    try:
        metadata = json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_small_integer,
        )
        # A lone surrogate is legal JSON and illegal in every table written later.
        if "\\u" in text:
            json.dumps(metadata, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadSample("bad_json", "json is nested too deeply to be read") from error
    except UnicodeEncodeError as error:
        raise BadSample("bad_json", "json holds half a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise BadSample("bad_json", f"json: {error.msg} at character {error.pos}") from error
    if not isinstance(metadata, dict):
        raise BadSample("bad_json", f"json holds a {type(metadata).__name__}, expected an object")
    if text.count("{") + text.count("[") > MAX_METADATA_DEPTH and _depth(metadata) > MAX_METADATA_DEPTH:
        raise BadSample("bad_json", f"json is nested deeper than {MAX_METADATA_DEPTH}")
    _check_metadata(metadata)
    return metadata


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadSample("bad_json", f"json gives {repeated[:80]!r} twice")
    return built


def _refuse_constant(text: str) -> NoReturn:
    raise BadSample("bad_json", f"json holds {text}, which is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadSample("bad_json", f"json holds {text[:40]}, which no float64 can")
    return value


def _small_integer(text: str) -> int:
    # Digits are counted first: converting a million of them takes Python seconds, or an error of its own.
    value = int(text) if len(text) <= 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise BadSample("bad_json", f"json holds the integer {text[:40]}, beyond 64 bits")
    return value


def _depth(value: object) -> int:
    """Levels of nesting in `value`, found level by level: recursion is what the limit protects against."""
    depth, level = 0, [value]
    while level:
        children: list[object] = []
        for item in level:
            children.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        depth, level = depth + 1, children
    return depth


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    speaker = metadata.get("speaker")
    if isinstance(speaker, str):
        if problem := speaker_problem(speaker):
            raise BadSample("bad_metadata", f"json: {problem}")
    elif speaker is not None and (isinstance(speaker, bool) or not isinstance(speaker, int)):
        raise BadSample("bad_metadata", f"json: speaker is a {type(speaker).__name__}, expected text")
    for name in ("emotion", "language"):
        if not isinstance(metadata.get(name), str | None):
            raise BadSample("bad_metadata", f"json: {name} is a {type(metadata[name]).__name__}, expected text")
    duration = metadata.get("duration_seconds")
    if duration is not None and (isinstance(duration, bool) or not isinstance(duration, int | float) or duration < 0):
        raise BadSample("bad_metadata", f"json: duration_seconds is {str(duration)[:80]!r}, expected seconds")
    if not isinstance(metadata.get("demographics"), dict | None):
        raise BadSample("bad_metadata", "json: demographics is not an object")
    if metadata.get("ratings") is not None:
        _check_ratings(metadata["ratings"])


def _check_ratings(ratings: object) -> None:
    if not isinstance(ratings, dict) or not ratings.keys() <= _RATED_CHANNELS:
        raise BadSample("bad_metadata", f"json: ratings must be an object of {', '.join(sorted(_RATED_CHANNELS))}")
    for channel, votes in ratings.items():
        counts = votes.values() if isinstance(votes, dict) else [None]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in counts):
            raise BadSample("bad_metadata", f"json: ratings of {channel} must map names to vote counts")

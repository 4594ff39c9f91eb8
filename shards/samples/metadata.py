"""The json of a sample: checked once, here, against written limits, and read by dotted names.

Members come from anywhere. Python's own `json` takes NaN, recurses as deep as its input asks, and
keeps the last of two fields with one name; each of these is a reason to reject a sample.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from shards.errors import BadSample
from shards.samples.keys import speaker_problem

METADATA_EXTENSION = "json"
# An hour of speech is about 60 kB of text; the metadata holds a few dozen numbers.
MAX_TEXT_BYTES = 1 << 20
MAX_METADATA_DEPTH = 16
_RATED_CHANNELS = frozenset({"voice", "face", "audiovisual"})


def encode_metadata(metadata: Mapping[str, object]) -> bytes:
    """`metadata` as canonical JSON: sorted names, no spaces, UTF-8. Raises ValueError for NaN."""
    return json.dumps(
        metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


def decode_text(code: str, extension: str, data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise BadSample(
            code, f"{extension} has {len(data)} bytes, at most {MAX_TEXT_BYTES} are read"
        )
    try:
        # "utf-8-sig": Windows programs put a byte order mark in front, which is not part of the
        # text.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(
            code, f"{extension} is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def parse_metadata(data: bytes) -> dict[str, object]:
    """The `json` of a sample, checked. Raises BadSample (`bad_json`, `bad_metadata`)."""
    text = decode_text("bad_json", METADATA_EXTENSION, data)
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
    if (
        text.count("{") + text.count("[") > MAX_METADATA_DEPTH
        and _depth(metadata) > MAX_METADATA_DEPTH
    ):
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
    # Digits are counted first: converting a million of them takes Python seconds, or an error of
    # its own.
    value = int(text) if len(text) <= 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise BadSample("bad_json", f"json holds the integer {text[:40]}, beyond 64 bits")
    return value


def _depth(value: object) -> int:
    """Levels of nesting in `value`, found level by level: recursion is what the limit protects
    against.
    """
    depth, level = 0, [value]
    while level:
        children: list[object] = []
        for item in level:
            children.extend(
                item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            )
        depth, level = depth + 1, children
    return depth


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    speaker = metadata.get("speaker")
    if isinstance(speaker, str):
        if problem := speaker_problem(speaker):
            raise BadSample("bad_metadata", f"json: {problem}")
    elif speaker is not None and (isinstance(speaker, bool) or not isinstance(speaker, int)):
        raise BadSample(
            "bad_metadata", f"json: speaker is a {type(speaker).__name__}, expected text"
        )
    for name in ("emotion", "language"):
        if not isinstance(metadata.get(name), str | None):
            raise BadSample(
                "bad_metadata", f"json: {name} is a {type(metadata[name]).__name__}, expected text"
            )
    duration = metadata.get("duration_seconds")
    if duration is not None and (
        isinstance(duration, bool) or not isinstance(duration, int | float) or duration < 0
    ):
        raise BadSample(
            "bad_metadata", f"json: duration_seconds is {str(duration)[:80]!r}, expected seconds"
        )
    if not isinstance(metadata.get("demographics"), dict | None):
        raise BadSample("bad_metadata", "json: demographics is not an object")
    if metadata.get("ratings") is not None:
        _check_ratings(metadata["ratings"])


def _check_ratings(ratings: object) -> None:
    if not isinstance(ratings, dict) or not ratings.keys() <= _RATED_CHANNELS:
        raise BadSample(
            "bad_metadata",
            f"json: ratings must be an object of {', '.join(sorted(_RATED_CHANNELS))}",
        )
    for channel, votes in ratings.items():
        counts = votes.values() if isinstance(votes, dict) else [None]
        if not all(
            isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in counts
        ):
            raise BadSample(
                "bad_metadata", f"json: ratings of {channel} must map names to vote counts"
            )


def dig(value: object, dotted: str) -> object:
    """The field of a nested json, `demographics.age`; None where it is not there."""
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def number(value: object) -> float:
    """A field of the json as a number, also where it was written as text, as an imported CSV's is;
    else NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan

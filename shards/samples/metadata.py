"""The json of a sample: it is checked here, once, against fixed limits, and read by dotted names.

Members may come from anybody. Python's `json` accepts NaN, recurses as deeply as its input demands,
and of two fields with the same name keeps the last. Each of these is a reason to reject a sample.
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
# What raters had of an utterance: its sound alone, its picture alone, or both.
RATED_STIMULI = ("voice", "face", "audiovisual")
MAX_VOTES = 2**31 - 1


def encode_metadata(metadata: Mapping[str, object]) -> bytes:
    """`metadata` as JSON in UTF-8, with sorted names and no spaces. Raises ValueError for NaN."""
    return json.dumps(
        metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


def decode_text(code: str, extension: str, data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise BadSample(
            code, f"{extension} has {len(data)} bytes, at most {MAX_TEXT_BYTES} are read"
        )

    try:
        # Programs on Windows put a byte order mark before a text. "utf-8-sig" removes the mark.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(
            code, f"{extension} is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def parse_metadata(data: bytes) -> dict[str, object]:
    """Parse and check the json of a sample. Raises BadSample (`bad_json` or `bad_metadata`)."""
    text = decode_text("bad_json", METADATA_EXTENSION, data)

    try:
        metadata = json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_small_integer,
        )
        # A lone surrogate is legal in JSON, but not in the tables that are written later. Only an
        # escape can bring one in, because the bytes are valid UTF-8.
        if "\\u" in text:
            json.dumps(metadata, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadSample("bad_json", "json is nested too deeply to be read") from error
    except UnicodeEncodeError as error:
        raise BadSample(
            "bad_json", "json holds half a surrogate pair, which is no character"
        ) from error
    except json.JSONDecodeError as error:
        raise BadSample("bad_json", f"json: {error.msg} at character {error.pos}") from error

    if not isinstance(metadata, dict):
        raise BadSample("bad_json", f"json holds a {type(metadata).__name__}, expected an object")
    # Counting the brackets is quick, and nesting cannot be deeper than their number.
    if (
        text.count("{") + text.count("[") > MAX_METADATA_DEPTH
        and _depth(metadata) > MAX_METADATA_DEPTH
    ):
        raise BadSample("bad_json", f"json is nested deeper than {MAX_METADATA_DEPTH} levels")

    _check_metadata(metadata)
    return metadata


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadSample("bad_json", f"json gives {repeated[:80]!r} twice, expected it once")
    return built


def _refuse_constant(text: str) -> NoReturn:
    raise BadSample("bad_json", f"json holds {text}, which is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadSample("bad_json", f"json holds {text[:40]}, which is too large for a float64")
    return value


def _small_integer(text: str) -> int:
    # The digits are counted first: a million digits take Python seconds to convert, or raise an
    # error of Python's own. A number of too many digits becomes one that the check below refuses.
    value = int(text) if len(text) <= 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise BadSample("bad_json", f"json holds the integer {text[:40]}, expected at most 64 bits")
    return value


def _depth(value: object) -> int:
    """The number of nested levels in `value`.

    The levels are counted one after the other. A recursion would go as deep as the input demands,
    which is what the limit protects against.
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
    # True and False are integers to Python, but not names of speakers.
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
            "bad_metadata",
            f"json: duration_seconds is {str(duration)[:80]!r}, expected a number of 0 or more",
        )

    if not isinstance(metadata.get("demographics"), dict | None):
        raise BadSample("bad_metadata", "json: demographics must be an object")
    if metadata.get("ratings") is not None:
        _check_ratings(metadata["ratings"])


def _check_ratings(ratings: object) -> None:
    if not isinstance(ratings, dict) or not ratings.keys() <= {*RATED_STIMULI}:
        raise BadSample(
            "bad_metadata",
            f"json: ratings must be an object with no other names than {', '.join(RATED_STIMULI)}",
        )

    for stimulus, votes in ratings.items():
        counts = votes.values() if isinstance(votes, dict) else [None]
        if not all(_is_count(number) for number in counts):
            raise BadSample(
                "bad_metadata",
                f"json: ratings of {stimulus} must map labels to whole numbers of votes",
            )


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Whole numbers of a table with gaps may have come as floats.
    return value == int(value) and 0 <= value <= MAX_VOTES


def dig(value: object, dotted: str) -> object:
    """The field of a nested json at a dotted name, such as `demographics.age`; None if missing."""
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None

    return value


def number(value: object) -> float:
    """A field of the json as a number; NaN when it is not a number.

    A number that is written as text counts, because the fields of an imported CSV are texts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan

    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan

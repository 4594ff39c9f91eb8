"""Feature files: the frames that a frozen encoder makes of every utterance of one shard.

A feature file is one safetensors file for each input shard, which any tool that knows the format
opens: a float16 tensor `[frames, layers, width]` for each utterance, under its key, and with
extra tokens another one, `[tokens, width]`, under KEY.tokens (keys have no dots). The header says
what the file was made from and where each utterance lies, so that a few frames of one utterance
cost one small read, local or remote, whatever the size of the file. It also keeps the utterances
that have no features, with the reason.

Parquet lost: a page must be decoded whole to read a slice of it. The safetensors library writes
only what is in memory as a whole, and opens local files only. The layers of a corpus can be larger
than the memory, so frames wait in a temporary file of this machine until their shard is done, and
this module writes and reads the header, which is a length and a JSON object.

Shapes: T frames, X extra tokens, L layers, D width.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.errors import count_reasons
from shards.storage.files import RangedReader, atomic_write, open_ranged
from shards.storage.parquet import METADATA_KEY

FORMAT_VERSION = 1
READABLE_FORMATS = (1,)
KIND = "features"
SUFFIX = ".safetensors"
SUMMARY_NAME = "features-summary.json"  # the job writes it last, beside the files
REMEDY = "remove it and run `emostream features` again"
MAX_HEADER_BYTES = 100_000_000  # a limit of the safetensors format
_LENGTH_BYTES, _ALIGNMENT, _DTYPE = 8, 8, "F16"
_TOKENS_SUFFIX = ".tokens"
_INFO_KEY, _ROWS_KEY = METADATA_KEY.decode(), "utterances"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """One utterance: its place in its shard, and the number of its frames.

    `num_frames` is 0 exactly when `error` says why there are no features.
    """

    key: str
    offset: int
    duration_seconds: float | None
    num_frames: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """What a file was made from: the encoder, its layers, and the shard.

    `fingerprint` names the encoder's weights and the layers, and no others. `layers` are the
    numbers of the stored hidden states, in the order of the second axis; 0 is what enters the first
    transformer layer. `num_tokens` is the number of extra tokens of each utterance, 0 where none
    are kept. `shard_error` says what is wrong with the shard, None where nothing is.
    """

    encoder: str
    fingerprint: str
    layers: Sequence[int]
    width: int
    shard: str
    shard_url: str
    shard_size: int
    shard_version: str
    shard_error: str | None
    num_rows: int
    num_tokens: int = 0
    kind: str = KIND
    format_version: int = FORMAT_VERSION


class FeatureWriter:
    """Takes the utterances of a shard in their order, then writes their file in one step."""

    def __init__(self) -> None:
        self.rows: list[FeatureRow] = []
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - `__exit__` closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spool.close()

    def add(
        self,
        row: FeatureRow,
        frames_TLD: NDArray[np.float16] | None,
        tokens_XD: NDArray[np.float16] | None = None,
    ) -> None:
        """Take one utterance; `frames_TLD` is None where `row` has an error.

        `tokens_XD` are given for every utterance without an error, or for none.
        """
        self.rows.append(row)
        for part in (frames_TLD, tokens_XD):
            if part is not None:
                self._spool.write(np.ascontiguousarray(part, dtype="<f2").data)

    def commit(self, url: str, info: FeatureInfo) -> None:
        """Write the file. It appears whole or not at all; equal input gives equal bytes."""
        header = _header(self.rows, info)
        self._spool.seek(0)

        with atomic_write(url) as stream:
            stream.write(len(header).to_bytes(_LENGTH_BYTES, "little"))
            stream.write(header)
            shutil.copyfileobj(self._spool, stream, 1 << 22)


@dataclass(frozen=True, slots=True)
class FeatureHeader:
    """The header of a file: what it was made from, its utterances, and where their features begin.

    `begins` maps the key of each utterance with features to the byte at which its frames begin, and
    `token_begins` to that of its tokens; it is empty where the file has none.
    """

    info: FeatureInfo
    rows: Sequence[FeatureRow]
    begins: Mapping[str, int]
    token_begins: Mapping[str, int]

    def count_errors(self) -> tuple[dict[str, int], float]:
        """The number of utterances with each reason code, and the seconds of sound."""
        seconds = sum(row.duration_seconds or 0.0 for row in self.rows)
        return count_reasons(row.error for row in self.rows), seconds


def read_header(url: str) -> FeatureHeader:
    """The header of a file. Raises ConfigError when it is no feature file, or is cut short."""
    with open_ranged(url) as reader:
        try:
            return _parse(reader)
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{url}: not a readable feature file ({error}); {REMEDY}") from error


def read_frames(
    reader: RangedReader, header: FeatureHeader, row: FeatureRow, frames: slice = slice(None)
) -> NDArray[np.float16]:
    """The frames [T, L, D] of an utterance that has features, or only those in a slice.

    Raises ConfigError when the file has become shorter.
    """
    info = header.info
    start, stop, step = frames.indices(row.num_frames)
    shape = (max(0, stop - start), len(info.layers), info.width)

    num_bytes = 2 * int(np.prod(shape[1:]))  # of one frame
    data = reader.read_at(header.begins[row.key] + start * num_bytes, shape[0] * num_bytes)
    if len(data) != shape[0] * num_bytes:
        raise ConfigError(f"the features of {info.shard_url} are cut short; {REMEDY}")

    return np.frombuffer(data, dtype="<f2").reshape(shape)[:: step if step > 0 else 1]


def read_tokens(
    reader: RangedReader, header: FeatureHeader, row: FeatureRow
) -> NDArray[np.float16]:
    """The extra tokens [X, D] of an utterance that has features.

    Raises ConfigError when the file has none, or has become shorter.
    """
    info = header.info
    if not info.num_tokens:
        raise ConfigError(
            f"the features of {info.shard_url} hold no extra tokens; make them with `emostream "
            "features --tokens`, in a folder of their own"
        )

    num_bytes = 2 * info.num_tokens * info.width
    data = reader.read_at(header.token_begins[row.key], num_bytes)
    if len(data) != num_bytes:
        raise ConfigError(f"the features of {info.shard_url} are cut short; {REMEDY}")
    return np.frombuffer(data, dtype="<f2").reshape(info.num_tokens, info.width)


def _header(rows: Sequence[FeatureRow], info: FeatureInfo) -> bytes:
    entries: dict[str, Any] = {
        "__metadata__": {
            _INFO_KEY: json.dumps(_stated(info), sort_keys=True),
            _ROWS_KEY: json.dumps([list(asdict(row).values()) for row in rows]),
        }
    }

    end = 0
    for row in rows:
        if row.error is None:
            shapes = {row.key: [row.num_frames, len(info.layers), info.width]}
            if info.num_tokens:
                shapes[row.key + _TOKENS_SUFFIX] = [info.num_tokens, info.width]
            for name, shape in shapes.items():
                begin, end = end, end + 2 * int(np.prod(shape))
                entries[name] = {"dtype": _DTYPE, "shape": shape, "data_offsets": [begin, end]}

    text = json.dumps(entries).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ConfigError(
            f"shard {info.shard}: {len(rows)} utterances are too many for the header of one "
            "safetensors file; cut the corpus into smaller shards"
        )
    # The format wants the data to begin at a multiple of eight bytes, and fills with spaces.
    return text + b" " * (-len(text) % _ALIGNMENT)


def _parse(reader: RangedReader) -> FeatureHeader:
    length = int.from_bytes(reader.read_at(0, _LENGTH_BYTES), "little")
    begin = _LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES or begin > reader.size:
        raise ValueError(f"got a header of {length} bytes in a file of {reader.size}")

    entries = json.loads(reader.read_at(_LENGTH_BYTES, length))
    metadata = entries.pop("__metadata__")
    info = _info(json.loads(metadata[_INFO_KEY]))
    rows = [FeatureRow(**_named(values)) for values in json.loads(metadata[_ROWS_KEY])]

    places = {name: begin + int(entry["data_offsets"][0]) for name, entry in entries.items()}
    ends = [begin, *(begin + int(entry["data_offsets"][1]) for entry in entries.values())]
    keys = {row.key for row in rows if row.error is None}
    tokens = {key + _TOKENS_SUFFIX: key for key in keys} if info.num_tokens else {}
    if max(ends) != reader.size or places.keys() != keys | tokens.keys():
        raise ValueError(f"got {reader.size} bytes, expected {max(ends)}, or other utterances")

    return FeatureHeader(
        info,
        rows,
        {key: places[key] for key in keys},
        {key: places[name] for name, key in tokens.items()},
    )


def _stated(info: FeatureInfo) -> dict[str, Any]:
    """What a file says of itself; without tokens, what it said before there were any."""
    values = asdict(info)
    if not info.num_tokens:
        del values["num_tokens"]
    return values


def _named(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip((item.name for item in fields(FeatureRow)), values, strict=True))


def _info(values: Mapping[str, Any]) -> FeatureInfo:
    if values.get("kind") != KIND or values.get("format_version") not in READABLE_FORMATS:
        raise ValueError(
            f"got kind {values.get('kind')} of format {values.get('format_version')}, expected "
            f"{KIND} of format {FORMAT_VERSION}"
        )
    return FeatureInfo(**values)

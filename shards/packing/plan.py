"""Which kept utterance goes into which training shard, decided before any shard is opened.

The plan follows from the selection and the versions of the labeled shards. Utterances are sorted by
split, speaker and place, and cut between speakers, so that a speaker is in several shards only when
its utterances exceed the size of one. The name of a planned shard holds a digest of all that goes
into the shard, so that a finished shard is recognized by its name, whichever run or worker wrote
it. Balancing the shards to equal sizes was left out: when one utterance is added, balancing would
move every later boundary, and so every later shard would be written again.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.samples.keys import MAX_KEY_BYTES
from shards.selection.rule import SPLITS

PLAN_COLUMNS = (
    "key",
    "shard",
    "offset",
    "size",
    "speaker",
    "duration_seconds",
    "label",
    "probs",
    "split",
)
PACKED_KEY = "packed_key"
FORMAT_VERSION = 2

_DIGEST_DIGITS = 12
_PACKED_NAME = re.compile(
    rf"((?:{'|'.join(SPLITS)})-\d{{6,}}-[0-9a-f]{{{_DIGEST_DIGITS}}})(?:-[a-z0-9-]+)?\.tar"
)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A training shard that is to be written.

    `stem` is its name without `.tar`, and `samples` are its rows in order, with PLAN_COLUMNS and
    PACKED_KEY.
    """

    stem: str
    samples: pa.Table

    @property
    def name(self) -> str:
        """The file whose presence says that the shard is finished."""
        return f"{self.stem}.tar"


def plan_shards(
    selection: pa.Table, versions: Mapping[str, str], target_bytes: int
) -> list[PlannedShard]:
    """Cut `selection` into shards of one split and of about `target_bytes`.

    `selection` has PLAN_COLUMNS, and its rows may come in any order. `versions` maps each source
    shard to its version: another version gives the planned shards other names.
    """
    order = [(name, "ascending") for name in ("speaker", "shard", "offset", "key")]
    samples = _with_packed_keys(selection.select(PLAN_COLUMNS).sort_by(order).combine_chunks())

    planned = []
    for split in SPLITS:
        mine = samples.filter(pc.equal(samples["split"], split)).combine_chunks()
        for number, (begin, end) in enumerate(_cuts(mine, target_bytes)):
            group = mine.slice(begin, end - begin)
            planned.append(PlannedShard(f"{split}-{number:06d}-{_digest(group, versions)}", group))

    return planned


def stem_of(name: str) -> str | None:
    """The stem of a packed shard's file name; None for any other name.

    For example, "train-000001-0123456789ab-face-mp3.tar" has the stem "train-000001-0123456789ab".
    """
    match = _PACKED_NAME.fullmatch(name)
    return None if match is None else match[1]


def _cuts(samples: pa.Table, target_bytes: int) -> Iterator[tuple[int, int]]:
    """The first row of each shard, and the row after its last one."""
    sizes = samples["size"].to_numpy()
    start = shard_bytes = 0

    for begin, end in _speaker_runs(samples):
        speaker_bytes = int(sizes[begin:end].sum())
        if start < begin and shard_bytes + speaker_bytes > target_bytes:
            yield start, begin
            start, shard_bytes = begin, 0

        # Only a speaker whose utterances exceed a shard is cut between rows.
        if speaker_bytes > target_bytes:
            for row in range(begin, end):
                if start < row and shard_bytes + int(sizes[row]) > target_bytes:
                    yield start, row
                    start, shard_bytes = row, 0
                shard_bytes += int(sizes[row])
        else:
            shard_bytes += speaker_bytes

    if start < len(samples):
        yield start, len(samples)


def _speaker_runs(samples: pa.Table) -> Iterator[tuple[int, int]]:
    """The first row of each speaker in sorted `samples`, and the row after the last one."""
    if len(samples):
        runs = pc.run_end_encode(samples["speaker"].combine_chunks())
        ends: NDArray[np.int64] = runs.run_ends.to_numpy().astype(np.int64)
        yield from zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)


def _with_packed_keys(samples: pa.Table) -> pa.Table:
    """`samples` with a column of the keys that they are packed under.

    A sample keeps a key that no other sample has. Samples of several source shards that share a key
    get different suffixes.
    """
    counts = samples["key"].value_counts()
    repeated = pc.is_in(
        samples["key"],
        value_set=counts.field("values").filter(pc.greater(counts.field("counts"), 1)),
    )

    packed = samples["key"].to_numpy().copy()
    rows = np.flatnonzero(repeated.to_numpy())
    for row, sample in zip(
        rows, samples.select(["key", "shard", "offset"]).take(rows).to_pylist(), strict=True
    ):
        packed[row] = _distinct_key(**sample)

    return samples.append_column(PACKED_KEY, pa.array(packed, pa.string()))


def _distinct_key(key: str, shard: str, offset: int) -> str:
    suffix = "-" + hashlib.sha256(f"{shard}\0{offset}".encode()).hexdigest()[:8]
    # The cut may fall into a character of several bytes; "ignore" drops the part that is left.
    return key.encode()[: MAX_KEY_BYTES - len(suffix)].decode(errors="ignore") + suffix


def _digest(samples: pa.Table, versions: Mapping[str, str]) -> str:
    """A digest of everything that determines the bytes of a shard."""
    sources = {name: versions[name] for name in pc.unique(samples["shard"]).to_pylist()}
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, sources], sort_keys=True).encode())
    for name in samples.column_names:
        digest.update(json.dumps([name, _plain_column(samples[name])]).encode())
    return digest.hexdigest()[:_DIGEST_DIGITS]


def _plain_column(column: pa.ChunkedArray) -> Sequence[object]:
    if pa.types.is_fixed_size_list(column.type):
        # Six times as fast as a list for each row.
        return pc.list_flatten(column).to_pylist()
    return column.to_pylist()

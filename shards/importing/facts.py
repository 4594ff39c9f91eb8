"""What became of the rows of each shard, kept in a hidden file beside it.

A shard is named by the samples in it, and nobody knows these before the files of its rows are read.
The facts of a shard tell it: each row's token (what the table and the file system say of the row)
with the digest of the sample that it gave, or with the reason why it gave none. So an import that
is run again recognizes its shards without opening a file, and reads of a shard that has changed
only the rows that have. A row whose file was touched has another token, and is read once more. One
file for the whole import lost: a killed import would have lost it.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from shards.config import ConfigError
from shards.errors import reason_code
from shards.importing.cutting import FORMAT_VERSION, ShardOfRows
from shards.storage.files import atomic_write, join
from shards.storage.parquet import METADATA_KEY, open_parquet

FACTS_NAME = re.compile(r"\.rows-([0-9a-f]{16})\.parquet")
# The reason of a row whose storage failed. It says nothing of the row, which is tried again.
UNREADABLE_FILE = "unreadable_file"
READ_THREADS = 16
_NAME_DIGITS = 16
_REMEDY = "it is made again"
_SCHEMA = pa.schema(
    [
        pa.field("token", pa.binary(16), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("sample", pa.binary(16)),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class RowFact:
    """The digest [16] of the sample that a row gave, or else the `reason` why it gave none."""

    sample: bytes | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What became of the rows of a shard.

    `shard` is the file name of the shard; None where no row gave a sample. `rows` is the table of
    the facts of all rows.
    """

    shard: str | None
    rows: pa.Table

    @property
    def is_final(self) -> bool:
        """Whether the same rows would give the same again; not where a storage failed."""
        return all(reason_code(reason) != UNREADABLE_FILE for _, reason in self.rejected())

    def rejected(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each row that gave no sample."""
        bad = self.rows.filter(self.rows["reason"].is_valid())
        yield from zip(bad["key"].to_pylist(), bad["reason"].to_pylist(), strict=True)


@dataclass(frozen=True, slots=True)
class KnownRows:
    """What earlier imports into the folder tell of the rows that are to be imported now.

    `facts` has the rows that are as they were, by token. `samples` has the digests of all samples
    that rows with the same keys gave: a shard that is there is made of these.
    """

    facts: dict[bytes, RowFact]
    samples: frozenset[bytes]


def facts_name(shard: ShardOfRows) -> str:
    """The name of the file with the facts of a shard."""
    return f".rows-{shard.name}.parquet"


def sample_digest(members: Mapping[str, bytes]) -> bytes:
    """The digest [16] of all bytes of a sample, its json included.

    XXH3 is made against accidents, not against attacks: who imports a corpus would attack only
    himself. SHA-256 lost, as it made an import from warm files 12 % slower.
    """
    digest = xxhash.xxh3_128()
    for extension, payload in sorted(members.items()):
        digest.update(f"{extension} {len(payload)}\n".encode())
        digest.update(payload)

    return digest.digest()


def make_facts(shard: ShardOfRows, facts: Sequence[RowFact]) -> ShardFacts:
    """The facts of all rows of a shard, in order, and the name that they give it."""
    rows = pa.table(
        {
            "token": list(shard.tokens),
            "key": [row.key for row in shard.rows],
            "sample": [fact.sample for fact in facts],
            "reason": [fact.reason for fact in facts],
        },
        schema=_SCHEMA,
    )
    content = hashlib.sha256(str(FORMAT_VERSION).encode())
    for row, fact in zip(shard.rows, facts, strict=True):
        if fact.sample is not None:
            content.update(f"{row.key}\n".encode() + fact.sample)

    is_empty = all(fact.sample is None for fact in facts)
    return ShardFacts(None if is_empty else f"shard-{content.hexdigest()[:_NAME_DIGITS]}.tar", rows)


def write_facts(out: str, shard: ShardOfRows, facts: ShardFacts) -> None:
    """Write the facts of a shard into the folder `out`."""
    footer = json.dumps({"format_version": FORMAT_VERSION, "shard": facts.shard})
    table = facts.rows.replace_schema_metadata({METADATA_KEY: footer})
    with atomic_write(join(out, facts_name(shard))) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_all_facts(out: str, names: Iterable[str]) -> dict[str, ShardFacts]:
    """The facts in those files of the folder `out` that hold facts, by the name of the file.

    A file that cannot be read, or that another release has written, tells nothing.
    """
    found = sorted(filter(FACTS_NAME.fullmatch, names))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        facts = pool.map(lambda name: _read(join(out, name)), found)
        return {name: each for name, each in zip(found, facts, strict=True) if each is not None}


def known_rows(every: Collection[ShardFacts], shards: Sequence[ShardOfRows]) -> KnownRows:
    """What the facts in `every` tell of the rows of `shards`."""
    tokens = pa.array([token for shard in shards for token in shard.tokens], pa.binary(16))
    keys = pa.array([row.key for shard in shards for row in shard.rows], pa.string())
    facts: dict[bytes, RowFact] = {}
    samples: set[bytes] = set()

    for each in every:
        same = each.rows.filter(pc.is_in(each.rows["token"], value_set=tokens))
        columns = (same[name].to_pylist() for name in ("token", "sample", "reason"))
        facts |= {
            token: RowFact(sample, reason)
            for token, sample, reason in zip(*columns, strict=True)
            if reason is None or reason_code(reason) != UNREADABLE_FILE
        }
        namesakes = each.rows.filter(pc.is_in(each.rows["key"], value_set=keys))
        samples.update(namesakes["sample"].drop_null().to_pylist())

    return KnownRows(facts, frozenset(samples))


def _read(url: str) -> ShardFacts | None:
    try:
        with open_parquet(url, remedy=_REMEDY) as file:
            footer = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
            if footer.get("format_version") != FORMAT_VERSION:
                return None
            rows = file.read(use_threads=False).replace_schema_metadata(None)
    except ConfigError:
        return None

    return ShardFacts(footer["shard"], rows) if rows.schema == _SCHEMA else None

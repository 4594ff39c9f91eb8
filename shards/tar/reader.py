"""The samples of a tar shard: an index of their places, and reading their members by range.

The index is made from headers alone, before any payload is read. So a shard of videos is indexed
without reading the videos, and a sample with a bad member is known before its first byte is
decoded. Nothing is lost silently. A member that cannot be used makes its sample an entry with an
error. Damage that hides the rest of the shard is an error of the index; the last sample before such
damage gets an error too, since some of its members may lie behind the damage.

An end-of-archive marker is required. Some writers leave the marker out; their shards count as cut
short, because a shard that has lost its tail between two members looks exactly the same.
"""

from dataclasses import dataclass, replace

from shards.errors import BadSample, BadShard
from shards.samples.keys import MAX_KEY_BYTES, key_problem, printable, split_name
from shards.samples.sample import ALLOWED_EXTENSIONS
from shards.storage.ranged_reader import BytesReader, RangedReader
from shards.tar.header import ZERO_BLOCK
from shards.tar.walk import FoundMember, walk_members
from shards.tar.writer import TarWriter

__all__ = [
    "Member",
    "SampleEntry",
    "ShardIndex",
    "TarLimits",
    "TarWriter",
    "index_shard",
    "read_members",
    "read_sample",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TarLimits:
    """Limits of a shard's members and samples. Ten minutes of 1080p video are about 150 MiB."""

    max_member_bytes: int = 256 << 20
    max_sample_bytes: int = 512 << 20
    max_members: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """The place in the tar where the payload of one field lies; `offset` and `size` in bytes."""

    extension: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One entry of a shard: a sample, or something that cannot be used (its `error` says why).

    `offset` and `size` cover the entry from its first header to the padded end of its last member.
    `error` is None for a usable sample. An entry with an error has a key that can be printed, but
    another entry may have the same key.
    """

    key: str
    offset: int
    size: int
    members: tuple[Member, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The entries of a shard in tar order.

    `error` is None, or says why further entries may be in the shard that could not be found.
    """

    entries: tuple[SampleEntry, ...]
    error: str | None


DEFAULT_LIMITS = TarLimits()

# A sample up to this size is read in one piece.
_WHOLE_SAMPLE_BYTES = 8 << 20


def index_shard(reader: RangedReader, limits: TarLimits = DEFAULT_LIMITS) -> ShardIndex:
    """Index the tar in `reader`.

    Bad content raises nothing: the index says what is bad. Raises OSError when the file cannot be
    read.
    """
    grouping = _Grouping(limits)

    try:
        for member in walk_members(reader, limits.max_members):
            grouping.add(member)
    except BadShard as problem:
        # Data after the end of the archive takes nothing away from the samples before the end.
        if problem.code != "trailing_data":
            grouping.break_off(problem)
        return ShardIndex(grouping.finish(), problem.reason)

    return ShardIndex(grouping.finish(), None)


def read_members(reader: RangedReader, entry: SampleEntry) -> dict[str, bytes]:
    """The payloads of `entry`: extension -> bytes.

    Raises BadSample with the entry's reason when the entry has an error, and BadShard when the file
    has become shorter since it was indexed.
    """
    if entry.error is not None:
        code, _, detail = entry.error.partition(": ")
        raise BadSample(code, detail)

    start, members = entry.offset, {}
    # A small sample is read at once and cut into members. The members of a large sample are read
    # one by one: the whole and its pieces would take twice the memory.
    whole = reader.read_at(start, entry.size) if entry.size <= _WHOLE_SAMPLE_BYTES else None

    for member in entry.members:
        begin, size = member.offset, member.size
        payload = (
            reader.read_at(begin, size)
            if whole is None
            else whole[begin - start : begin - start + size]
        )
        if len(payload) != size:
            raise BadShard(
                "changed_shard", f"sample '{entry.key}' has lost bytes since the shard was indexed"
            )
        members[member.extension] = payload

    return members


def read_sample(
    reader: RangedReader, key: str, offset: int, size: int, limits: TarLimits = DEFAULT_LIMITS
) -> dict[str, bytes]:
    """The payloads of sample `key`, read from its place in the tar without an index of the shard.

    Prediction tables keep `offset` and `size`. The headers in this range of bytes are checked as if
    the range were a shard of its own. Raises BadShard when they are not the headers of `key` alone.
    A range that holds only some members of the sample is not noticed here: callers rely on the
    shard's identity, which changes with the shard.
    """
    if 0 < size <= limits.max_sample_bytes:
        # The range has no end-of-archive marker, so two zero blocks are appended.
        block = BytesReader(reader.read_at(offset, size) + 2 * ZERO_BLOCK)
        index = index_shard(block, limits)
        if index.error is None and [(e.key, e.size, e.error) for e in index.entries] == [
            (key, size, None)
        ]:
            return read_members(block, index.entries[0])

    detail = (
        f"expected sample '{printable(key)}' in the {size} bytes at byte {offset}, found something "
        "else; label the shard again"
    )
    raise BadShard("changed_shard", detail)


class _Grouping:
    """Gathers members into samples in the order in which the members come."""

    def __init__(self, limits: TarLimits) -> None:
        self._limits = limits
        self._entries: list[SampleEntry] = []
        self._entry_of_key: dict[str, int] = {}
        self._key: str | None = None
        self._members: dict[str, Member] = {}
        self._start = self._end = 0
        self._error: str | None = None
        self._name = ""

    def add(self, found: FoundMember) -> None:
        """Take the next member of the archive."""
        key, extension = split_name(found.name)
        if key != self._key:
            self._close()
            self._key, self._name, self._start, self._members = key, found.name, found.start, {}
            self._error = _reason(found.problem or key_problem(key))
        self._end = found.end

        if self._error is None:
            problem = found.problem or self._member_problem(extension, found)
            if problem is None:
                self._members[extension] = Member(extension, found.offset, found.size)
            else:
                self._error = _reason(problem)

    def break_off(self, problem: BadShard) -> None:
        """Mark the open sample as incomplete: some of its members may lie behind the damage."""
        if self._error is None:
            self._error = (
                "incomplete_sample: the shard breaks off here, so members may be missing "
                f"({problem.reason})"
            )

    def finish(self) -> tuple[SampleEntry, ...]:
        """Close the last sample, and return all entries."""
        self._close()
        return tuple(self._entries)

    def _member_problem(self, extension: str, found: FoundMember) -> tuple[str, str] | None:
        if extension not in ALLOWED_EXTENSIONS:
            return _extension_problem(extension, printable(found.name))

        if extension in self._members:
            return (
                "duplicate_extension",
                f"member '{printable(found.name)}' is the second {extension} member of its sample",
            )

        sample_bytes, limits = found.end - self._start, self._limits
        if found.size > limits.max_member_bytes:
            claim = f"member '{printable(found.name)}' has {found.size} bytes"
            return "member_too_large", f"{claim}, at most {limits.max_member_bytes} are read"

        if sample_bytes > limits.max_sample_bytes:
            claim = f"the sample has {sample_bytes} bytes up to '{printable(found.name)}'"
            return "sample_too_large", f"{claim}, at most {limits.max_sample_bytes} are read"

        return None

    def _close(self) -> None:
        """Make an entry of the open sample."""
        if self._key is None:
            return

        # A bad key may hold characters that must not reach a table or a terminal. A key may also be
        # empty; the name of the first member then shows which entry is meant.
        key = self._key
        if self._error is not None:
            key = printable(key, MAX_KEY_BYTES) or printable(self._name, MAX_KEY_BYTES)

        members = tuple(self._members.values())
        first = self._entry_of_key.setdefault(key, len(self._entries))
        entry = SampleEntry(key, self._start, self._end - self._start, members, self._error)
        if first < len(self._entries):
            entry = self._mark_repeated(first, entry)

        self._entries.append(entry)
        self._key = None

    def _mark_repeated(self, first: int, second: SampleEntry) -> SampleEntry:
        """Give both entries of a repeated key an error: nothing says which entry is the sample."""
        earlier, key = self._entries[first], second.key
        shared = {m.extension for m in earlier.members} & {m.extension for m in second.members}
        code = "duplicate_key" if shared else "non_contiguous_key"

        if earlier.error is None:
            self._entries[first] = replace(
                earlier, error=f"{code}: key '{key}' appears again at byte {second.offset}"
            )
        if second.error is None:
            return replace(second, error=f"{code}: key '{key}' is also at byte {earlier.offset}")
        return second


def _extension_problem(extension: str, shown: str) -> tuple[str, str]:
    if not extension:
        return "no_extension", f"member '{shown}' has no extension, expected key.extension"

    _, _, last = extension.rpartition(".")
    if last in ALLOWED_EXTENSIONS or extension.endswith(".face.npy"):
        return (
            "dotted_key",
            f"member '{shown}' has a dot in its key, but a key ends at the first dot; rename the "
            f"member without a dot before .{last}",
        )

    return (
        "unknown_extension",
        f"member '{shown}' has an unknown extension, expected one of "
        f"{', '.join(sorted(ALLOWED_EXTENSIONS))}",
    )


def _reason(problem: tuple[str, str] | None) -> str | None:
    return None if problem is None else f"{problem[0]}: {problem[1]}"

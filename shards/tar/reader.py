"""The samples of a tar shard: an index of where they lie, ranged reads of their members, and a
writer.

The index is made before anything is read, from headers alone, so a shard of videos is indexed
without its payloads and a sample that is bad in any member is known before its first byte is
decoded. Nothing is lost silently: a member that cannot be used makes its sample an entry with an
error, and damage that hides the rest of the shard is the index's own error. The last sample before
such damage is an error too, since members of it may lie behind the damage.

An end-of-archive marker is required. Some writers leave it out; their shards read as cut short,
because a shard that lost its tail between two members looks exactly the same.
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
    """What is refused as too much. Ten minutes of 1080p video are about 150 MiB."""

    max_member_bytes: int = 256 << 20
    max_sample_bytes: int = 512 << 20
    max_members: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """Where the payload of one field lies in its tar."""

    extension: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One sample of a shard, or one thing in it that is none.

    `offset` and `size` cover the sample from its first header to the padded end of its last member.
    `error` says why it cannot be used; its key is then fit for printing, though it may not be
    unique.
    """

    key: str
    offset: int
    size: int
    members: tuple[Member, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The entries in tar order, and why there may be more that could not be found."""

    entries: tuple[SampleEntry, ...]
    error: str | None


DEFAULT_LIMITS = TarLimits()

_WHOLE_SAMPLE_BYTES = 8 << 20


def index_shard(reader: RangedReader, limits: TarLimits = DEFAULT_LIMITS) -> ShardIndex:
    """Index the tar in `reader`. Raises nothing for bad content, only OSError when the file cannot
    be read.
    """
    grouping = _Grouping(limits)
    try:
        for member in walk_members(reader, limits.max_members):
            grouping.add(member)
    except BadShard as problem:
        if problem.code != "trailing_data":
            grouping.break_off(problem)
        return ShardIndex(grouping.finish(), problem.reason)
    return ShardIndex(grouping.finish(), None)


def read_members(reader: RangedReader, entry: SampleEntry) -> dict[str, bytes]:
    """The payloads of `entry`, extension -> bytes.

    Raises BadSample with the entry's own reason when it is in error, and BadShard when the file has
    become shorter.
    """
    if entry.error is not None:
        code, _, detail = entry.error.partition(": ")
        raise BadSample(code, detail)
    start, members = entry.offset, {}
    # One read and slices; the members of a large sample are read one by one instead of being held
    # twice.
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
    """The payloads of sample `key` by its place in the tar, as prediction tables keep it; needs no
    index.

    The headers in that range are checked as if it were a shard of its own. Raises BadShard when
    they are not those of `key` alone. That the range is not only a part of the sample is for the
    shard's identity to say.
    """
    if 0 < size <= limits.max_sample_bytes:
        block = BytesReader(reader.read_at(offset, size) + 2 * ZERO_BLOCK)
        index = index_shard(block, limits)
        if index.error is None and [(e.key, e.size, e.error) for e in index.entries] == [
            (key, size, None)
        ]:
            return read_members(block, index.entries[0])
    detail = (
        f"sample '{printable(key)}' is not the {size} bytes at byte {offset}; label the shard again"
    )
    raise BadShard("changed_shard", detail)


class _Grouping:
    """Gathers members into samples as they come."""

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
        """The archive cannot be followed further: the open sample may lack members."""
        if self._error is None:
            self._error = f"incomplete_sample: the shard breaks off here ({problem.reason})"

    def finish(self) -> tuple[SampleEntry, ...]:
        """All entries."""
        self._close()
        return tuple(self._entries)

    def _member_problem(self, extension: str, found: FoundMember) -> tuple[str, str] | None:
        if extension not in ALLOWED_EXTENSIONS:
            return _extension_problem(extension, printable(found.name))
        if extension in self._members:
            return (
                "duplicate_extension",
                f"member '{printable(found.name)}' is the second {extension} of its sample",
            )
        sample_bytes, limits = found.end - self._start, self._limits
        if found.size > limits.max_member_bytes:
            claim = f"member '{printable(found.name)}' has {found.size} bytes"
            return "member_too_large", f"{claim}, at most {limits.max_member_bytes} are read"
        if sample_bytes > limits.max_sample_bytes:
            claim = f"{sample_bytes} bytes up to '{printable(found.name)}'"
            return "sample_too_large", f"{claim}, at most {limits.max_sample_bytes} are read"
        return None

    def _close(self) -> None:
        """Make an entry of the open sample."""
        if self._key is None:
            return
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
        """Both parts of a key found in two places are errors: nothing says which of them is the
        sample.
        """
        earlier, key = self._entries[first], second.key
        shared = {m.extension for m in earlier.members} & {m.extension for m in second.members}
        code = "duplicate_key" if shared else "non_contiguous_key"
        if earlier.error is None:
            self._entries[first] = replace(
                earlier, error=f"{code}: '{key}' comes again at byte {second.offset}"
            )
        if second.error is None:
            return replace(second, error=f"{code}: '{key}' is at byte {earlier.offset} too")
        return second


def _extension_problem(extension: str, shown: str) -> tuple[str, str]:
    if not extension:
        return "no_extension", f"member '{shown}' has no extension, expected key.extension"
    _, _, last = extension.rpartition(".")
    if last in ALLOWED_EXTENSIONS or extension.endswith(".face.npy"):
        return (
            "dotted_key",
            f"member '{shown}': the key ends at the first dot; rename it without dots before "
            f".{last}",
        )
    return "unknown_extension", f"member '{shown}', known: {', '.join(sorted(ALLOWED_EXTENSIONS))}"


def _reason(problem: tuple[str, str] | None) -> str | None:
    return None if problem is None else f"{problem[0]}: {problem[1]}"

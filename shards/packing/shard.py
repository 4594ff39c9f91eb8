"""Writing one training shard: its samples read one by one from where they lie, labels added,
streamed into a tar.

Only the kept samples' bytes are read. The key found at each place is checked, so a shard that
changed since it was labeled is an error and never a wrong label. At most one sample is in memory.

Every sample of a file has the same fields, as the Hugging Face loader demands. `json` and `txt` are
always there, `txt` empty where nobody knows the words. Samples of another kind (mp3 among flac, no
face among faces) go to a file of their own beside it, `STEM-mp3.tar`. Filling up missing faces with
empty arrays lost: a loader that guesses types from the first samples, as Hugging Face's does, then
guesses wrong. For the same reason names without a value are left out of `json` instead of being
null.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from shards.errors import BadSample, BadShard
from shards.packing.plan import PACKED_KEY, PlannedShard
from shards.samples.metadata import METADATA_EXTENSION, encode_metadata
from shards.samples.sample import (
    AUDIO_EXTENSIONS,
    FACE_EXTENSION,
    TRANSCRIPT_EXTENSION,
    VIDEO_EXTENSIONS,
    parse_sample,
)
from shards.storage.files import atomic_write, join
from shards.storage.open_files import OpenFiles
from shards.tar.reader import TarWriter, read_sample

# A speaker's utterances lie in a few source shards.
MAX_OPEN_SHARDS = 4
_KIND_EXTENSIONS = AUDIO_EXTENSIONS | VIDEO_EXTENSIONS | {FACE_EXTENSION}


def write_packed_shard(planned: PlannedShard, sources: Mapping[str, str], out: str) -> None:
    """Write `planned` from the shards `sources` (name -> URL).

    The file with the planned name appears last, after those of other kinds: it is there when all is
    there. Raises BadShard when a source shard is not what it was when it was labeled.
    """
    with ExitStack() as files, OpenFiles(MAX_OPEN_SHARDS) as shards:
        writers: dict[str, TarWriter] = {}
        for batch in planned.samples.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                members = _labeled_members(row, sources, shards)
                kind = _kind(members)
                if kind not in writers:
                    # The first to be opened is the last to be closed, and that is what makes a file
                    # appear.
                    name = f"{planned.stem}-{kind}.tar" if writers else planned.name
                    stream = files.enter_context(atomic_write(join(out, name)))
                    writers[kind] = files.enter_context(TarWriter(stream))
                writers[kind].add(row[PACKED_KEY], members)


def _labeled_members(
    row: Mapping[str, Any], sources: Mapping[str, str], shards: OpenFiles
) -> dict[str, bytes]:
    """The members of a sample, with its label in `json`."""
    try:
        members = read_sample(shards[sources[row["shard"]]], row["key"], row["offset"], row["size"])
        metadata = parse_sample(row["key"], members).metadata
    except (BadShard, BadSample) as problem:
        raise BadShard(problem.code, f"shard {row['shard']!r}: {problem.detail}") from problem
    labels = {name: row[name] for name in ("speaker", "label", "split")} | {
        "label_probs": row["probs"]
    }
    measured = {
        "duration_seconds": row["duration_seconds"]
    }  # training needs it; what the sample itself says wins
    members[METADATA_EXTENSION] = encode_metadata(
        _without_nulls(measured | _without_nulls(metadata) | labels)
    )
    members.setdefault(TRANSCRIPT_EXTENSION, b"")
    return members


def _without_nulls(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata` without names that have no value; reading takes both for absent."""
    return {
        name: _without_nulls(value) if isinstance(value, Mapping) else value
        for name, value in metadata.items()
        if value is not None
    }


def _kind(members: Mapping[str, bytes]) -> str:
    """What tells the fields of a sample from those of another, fit for a file name."""
    media = sorted(
        extension.removesuffix(".npy") for extension in members.keys() & _KIND_EXTENSIONS
    )
    return "-".join(media) or "text"

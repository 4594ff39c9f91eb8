"""Writing one training shard: its samples are read one by one, labeled, and put into a tar.

Only the bytes of kept samples are read. The key found at each place is checked, so that a shard
that has changed since it was labeled gives an error and never a wrong label. At most one sample is
in memory.

Every sample of a file has the same fields, as the Hugging Face loader demands. `json` and `txt` are
always there; `txt` is empty where the words are not known. Samples of another kind (mp3 among flac,
or no face among faces) go to a file of their own beside the first, such as `STEM-mp3.tar`. Filling
in empty arrays for missing faces lost: a loader that guesses types from the first samples, as
Hugging Face's does, would then guess wrong. For the same reason, names without a value are left out
of `json` instead of being null.
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

    The file with the planned name appears last, after the files of other kinds: when it is there,
    all are there. Raises BadShard when a source shard has changed since it was labeled.
    """
    with ExitStack() as files, OpenFiles(MAX_OPEN_SHARDS) as shards:
        writers: dict[str, TarWriter] = {}

        for batch in planned.samples.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                members = _labeled_members(row, sources, shards)
                kind = _kind(members)
                if kind not in writers:
                    # A file appears when it is closed, and the first file to be opened is the last
                    # to be closed. So the first one gets the planned name.
                    name = f"{planned.stem}-{kind}.tar" if writers else planned.name
                    stream = files.enter_context(atomic_write(join(out, name)))
                    writers[kind] = files.enter_context(TarWriter(stream))
                writers[kind].add(row[PACKED_KEY], members)


def _labeled_members(
    row: Mapping[str, Any], sources: Mapping[str, str], shards: OpenFiles
) -> dict[str, bytes]:
    """The members of a sample, with its label added to `json`."""
    try:
        members = read_sample(shards[sources[row["shard"]]], row["key"], row["offset"], row["size"])
        metadata = parse_sample(row["key"], members).metadata
    except (BadShard, BadSample) as problem:
        raise BadShard(problem.code, f"shard {row['shard']!r}: {problem.detail}") from problem

    labels = {name: row[name] for name in ("speaker", "label", "split")} | {
        "label_probs": row["probs"]
    }
    # Training needs the duration. A duration in the sample's own json wins over the measured one,
    # but the labels win over whatever the json says.
    measured = {"duration_seconds": row["duration_seconds"]}
    members[METADATA_EXTENSION] = encode_metadata(
        _without_nulls(measured | _without_nulls(metadata) | labels)
    )
    members.setdefault(TRANSCRIPT_EXTENSION, b"")

    return members


def _without_nulls(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata` without the names whose value is null, which readers take for absent anyway."""
    return {
        name: _without_nulls(value) if isinstance(value, Mapping) else value
        for name, value in metadata.items()
        if value is not None
    }


def _kind(members: Mapping[str, bytes]) -> str:
    """A name for the fields of a sample, fit for a file name: "flac", "face-mp3", or "text"."""
    media = sorted(
        extension.removesuffix(".npy") for extension in members.keys() & _KIND_EXTENSIONS
    )

    return "-".join(media) or "text"

"""The files of a speaker index: snapshots, journals, and built indexes as a cache.

`speakers-G.parquet` holds all speakers at generation G, and `journal-G.log` the writes after it. At
any moment the newest snapshot and the journals from generation G on are the whole truth.

`index-G.faiss` only saves the time to build the index of snapshot G again. `index-G.json` is
written after it and describes it. The index is used only if the description names this very
snapshot, configuration and release of FAISS, and if the digest of the file is right: FAISS itself
trusts whatever it reads.
"""

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.search.kernels import load_faiss
from actors.speaker_index.search.vector_index import VectorIndex, read_index_file, write_index_file
from actors.speaker_index.storage.journal import JournalPart, Record, check_tail, read_journal
from shards.config import ConfigError
from shards.speakers.files import read_speakers, write_speakers
from shards.speakers.table import SpeakerTable
from shards.storage.documents import read_json, write_json
from shards.storage.files import flush, open_ranged, written_name

log = logging.getLogger(__name__)

_NAME = re.compile(r"(speakers|journal|index)-(\d{12})\.(?:parquet|log|faiss|json)")
_SUFFIXES = {"speakers": "parquet", "journal": "log", "index": "faiss"}
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All speakers at a generation.

    `source` is the digest of the speaker table that `emostream serve` was started with.
    """

    generation: int
    table: SpeakerTable
    source: str


class IndexFolder:
    """The names of the files in one folder, and how they are read and written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, kind: str, generation: int) -> Path:
        """The path of the file of that kind (`speakers`, `journal`, `index`) and generation."""
        return self.path / f"{kind}-{generation:012d}.{_SUFFIXES[kind]}"

    def generations(self, kind: str) -> list[int]:
        """The sorted generations of which the folder has a file of that kind."""
        matches = [_NAME.fullmatch(name) for name in os.listdir(self.path)]
        return sorted(int(match[2]) for match in matches if match and match[1] == kind)

    def newest_snapshot(self) -> Snapshot | None:
        """The newest snapshot; None in a folder that has no snapshot and no journal.

        Raises ConfigError when the snapshot is damaged, or when there are journals without one.
        """
        found = self.generations("speakers")
        if not found:
            if self.generations("journal"):
                raise ConfigError(
                    f"{self.path}: holds journals and no snapshot, expected both; restore the "
                    "snapshot from a backup, or give another --data"
                )
            return None

        path = self.name("speakers", found[-1])
        table, extra = read_speakers(str(path))

        # A snapshot that was copied by hand to a later name would hide the writes in between.
        if extra.get("generation") != found[-1]:
            raise ConfigError(
                f"{path}: is the snapshot of generation {extra.get('generation')}, under another's "
                "name; restore the file of that name from a backup"
            )

        return Snapshot(found[-1], table, str(extra.get("source")))

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write the snapshot so that its file appears as a whole, on the disk, or not at all."""
        extra = {"generation": snapshot.generation, "source": snapshot.source}
        write_speakers(str(self.name("speakers", snapshot.generation)), snapshot.table, extra)

    def read_journals(self, since: int) -> tuple[list[Record], JournalPart | None]:
        """All writes after generation `since`, and the newest journal (None if there is none).

        Raises ConfigError when a write that was acknowledged is damaged or missing.
        """
        records: list[Record] = []
        part, last = None, since
        files = [generation for generation in self.generations("journal") if generation >= since]

        for generation in files:
            path = self.name("journal", generation)
            part = read_journal(path)
            for record in part.records:
                # A record without a payload is a mark and makes no generation.
                if not record.payload:
                    continue
                if record.generation != last + 1:
                    raise ConfigError(
                        f"{path}: goes from generation {last} to {record.generation}; a journal is "
                        "missing, restore it from a backup"
                    )
                records.append(record)
                last = record.generation

            check_tail(path, part, last)
            # A power loss tears only the newest journal: the writer flushed each older one to its
            # end before it went on to the next.
            if part.rest and generation != files[-1]:
                raise ConfigError(
                    f"{path}: is damaged at byte {part.end}, before a later journal; restore a "
                    "backup"
                )

        return records, part

    def write_index(self, generation: int, index: VectorIndex, config: IndexConfig) -> None:
        """Keep the built index of snapshot `generation`.

        A flat index is not kept, because it is built as quickly as it is read.
        """
        if index.kind == "flat":
            return

        path = self.name("index", generation)
        write_index_file(index, path)
        # The description comes last: without it, or beside another file, the index is not used.
        described = self._description(generation, config)
        described |= {"kind": index.kind, "recall": index.recall, "digest": table_digest(str(path))}
        write_json(path.with_suffix(".json"), described)

    def read_index(self, snapshot: Snapshot, config: IndexConfig) -> VectorIndex | None:
        """The kept index of a snapshot.

        None when no index is kept, or when it cannot be trusted; the log then says why.
        """
        path = self.name("index", snapshot.generation)
        if not path.exists():
            return None

        try:
            described = read_json(path.with_suffix(".json"))
            expected = self._description(snapshot.generation, config) | {
                "digest": table_digest(str(path))
            }
            wrong = [name for name, value in expected.items() if described[name] != value]
            kind, recall = str(described["kind"]), float(described["recall"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong = [f"description ({error!r})"]

        if wrong:
            log.warning(
                "%s is not used, because its %s is not the expected one; building the index again",
                path,
                ", ".join(wrong),
            )
            return None

        return read_index_file(path, kind, recall, config)

    def remove_before(self, generation: int) -> None:
        """Remove files older than the snapshot of `generation`, and leftovers of killed writers."""
        for name in os.listdir(self.path):
            match = _NAME.fullmatch(name)
            if (match and int(match[2]) < generation) or written_name(name) is not None:
                (self.path / name).unlink()
        flush(self.path)

    def _description(self, generation: int, config: IndexConfig) -> dict[str, Any]:
        """What the description of a kept index must say, apart from the index itself."""
        return {
            "snapshot": table_digest(str(self.name("speakers", generation))),
            "config": {"kind": config.kind, "recall": config.recall},
            "faiss": load_faiss().__version__,
        }


def table_digest(url: str) -> str:
    """SHA-256 of the content of a file, local or remote."""
    digest = hashlib.sha256()

    with open_ranged(url) as reader:
        for offset in range(0, reader.size, _BLOCK_BYTES):
            digest.update(reader.read_at(offset, min(_BLOCK_BYTES, reader.size - offset)))

    return digest.hexdigest()

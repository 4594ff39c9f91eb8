"""The files of a speaker index: snapshots, journals, and the built index as a cache.

`speakers-G.parquet` is all speakers at generation G, `journal-G.log` the writes after it. At any
moment the newest snapshot and the journals from it on are the whole truth. `index-G.faiss` only
saves building the index of snapshot G again: it is used when `index-G.json`, which appears after
it, says that it is of that very snapshot, configuration and FAISS, and when its digest is right.
FAISS itself trusts what it reads.
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
    """All speakers at a generation; `source` is the digest of the table the index was made from."""

    generation: int
    table: SpeakerTable
    source: str


class IndexFolder:
    """Names, reads and writes the files below one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, kind: str, generation: int) -> Path:
        """Where the file of that kind and generation lies."""
        return self.path / f"{kind}-{generation:012d}.{_SUFFIXES[kind]}"

    def generations(self, kind: str) -> list[int]:
        """Of which generations there are files of that kind, sorted."""
        matches = [_NAME.fullmatch(name) for name in os.listdir(self.path)]
        return sorted(int(match[2]) for match in matches if match and match[1] == kind)

    def newest_snapshot(self) -> Snapshot | None:
        """None in a folder without any. Raises ConfigError when it is damaged, or is missing beside
        journals.
        """
        found = self.generations("speakers")
        if not found:
            if self.generations("journal"):
                raise ConfigError(
                    f"{self.path}: holds journals and no snapshot; restore it, or give another "
                    "--data"
                )
            return None
        path = self.name("speakers", found[-1])
        table, extra = read_speakers(str(path))
        if extra.get("generation") != found[-1]:
            raise ConfigError(
                f"{path}: is the snapshot of generation {extra.get('generation')}, under another's "
                "name"
            )
        return Snapshot(found[-1], table, str(extra.get("source")))

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """It appears whole, on the disk, or not at all."""
        extra = {"generation": snapshot.generation, "source": snapshot.source}
        write_speakers(str(self.name("speakers", snapshot.generation)), snapshot.table, extra)

    def read_journals(self, since: int) -> tuple[list[Record], JournalPart | None]:
        """All writes after generation `since`, and the newest journal (None: there is none yet).

        Raises ConfigError when a write that was acknowledged is damaged or missing.
        """
        records: list[Record] = []
        part, last = None, since
        files = [generation for generation in self.generations("journal") if generation >= since]
        for generation in files:
            path = self.name("journal", generation)
            part = read_journal(path)
            for record in part.records:
                if not record.payload:
                    continue
                if record.generation != last + 1:
                    raise ConfigError(
                        f"{path}: goes from generation {last} to {record.generation}; a journal is "
                        "missing"
                    )
                records.append(record)
                last = record.generation
            check_tail(path, part, last)
            if part.rest and generation != files[-1]:
                raise ConfigError(
                    f"{path}: is damaged at byte {part.end}, before a later journal; restore a "
                    "backup"
                )
        return records, part

    def write_index(self, generation: int, index: VectorIndex, config: IndexConfig) -> None:
        """Keep the built index of snapshot `generation`; a flat one is as quick to build as to
        read.
        """
        if index.kind == "flat":
            return
        path = self.name("index", generation)
        write_index_file(index, path)
        described = self._description(generation, config)
        described |= {"kind": index.kind, "recall": index.recall, "digest": table_digest(str(path))}
        write_json(path.with_suffix(".json"), described)

    def read_index(self, snapshot: Snapshot, config: IndexConfig) -> VectorIndex | None:
        """The kept index of a snapshot; None, with the reason in the log, when it cannot be
        trusted.
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
                "%s is refused, its %s is not the expected one; building the index",
                path,
                ", ".join(wrong),
            )
            return None
        return read_index_file(path, kind, recall, config)

    def remove_before(self, generation: int) -> None:
        """Remove what the snapshot of `generation` has made needless, and leftovers of killed
        writers.
        """
        for name in os.listdir(self.path):
            match = _NAME.fullmatch(name)
            if (match and int(match[2]) < generation) or written_name(name) is not None:
                (self.path / name).unlink()
        flush(self.path)

    def _description(self, generation: int, config: IndexConfig) -> dict[str, Any]:
        """What a kept index must be of."""
        return {
            "snapshot": table_digest(str(self.name("speakers", generation))),
            "config": {"kind": config.kind, "recall": config.recall},
            "faiss": load_faiss().__version__,
        }


def table_digest(url: str) -> str:
    """SHA-256 of a file's content, local or remote."""
    digest = hashlib.sha256()
    with open_ranged(url) as reader:
        for offset in range(0, reader.size, _BLOCK_BYTES):
            digest.update(reader.read_at(offset, min(_BLOCK_BYTES, reader.size - offset)))
    return digest.hexdigest()

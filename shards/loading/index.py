"""What lies where in packed shards: one row an utterance, from tar headers and `json` members.

Everything that decides batches (speaker, split, label, duration) is known before any sound is read,
so an order of training can be a pure function of the index and a seed. Reading samples in the order
they lie and shuffling a buffer was left out: its order depends on the number of readers, and a
resumed run would not see what an undisturbed one sees.

An index costs about 0.1 ms an utterance and some hundred bytes of memory.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import NUM_EMOTIONS, class_name
from shards.errors import BadSample, BadShard
from shards.grouping import group_rows
from shards.samples.metadata import METADATA_EXTENSION, dig, number, parse_metadata
from shards.splits import DEFAULT_SPLIT
from shards.storage.files import list_files, open_ranged
from shards.tar.reader import SampleEntry, index_shard

# The speaker of utterances that name none, where a recipe does without speakers.
NOBODY = ""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # URL
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("duration_seconds", pa.float64()),
        ("label", pa.string()),  # the class to learn, weak or stated; null where there is none
        ("label_probs", pa.list_(pa.float32(), NUM_EMOTIONS)),
        ("emotion", pa.string()),  # the truth, null where it is not known
        ("json", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class CorpusIndex:
    """Utterances (SCHEMA) sorted by shard and offset.

    Plans and batches name an utterance by its row number.
    """

    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """The keys of the utterances at `rows`."""
        return [str(key) for key in self.table["key"].take(rows).to_pylist()]

    @property
    def speakers(self) -> list[str]:
        """Every speaker once, sorted."""
        return sorted(pc.unique(self.table["speaker"]).to_pylist())

    @property
    def speaker_of_rows(self) -> NDArray[np.object_]:
        """Who speaks each utterance [N]."""
        return np.asarray(self.table["speaker"].to_pylist(), dtype=object)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each utterance; NaN where its json does not say."""
        return self.table["duration_seconds"].to_numpy()

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any utterance's place or json."""
        digest = hashlib.sha256()
        for name in ("key", "offset", "json"):
            digest.update(json.dumps(self.table[name].to_pylist()).encode())
        return digest.hexdigest()[:16]

    def split(self, *names: str) -> "CorpusIndex":
        """The utterances of the splits `names`. Raises ConfigError for a split that has none."""
        there = set(pc.unique(self.table["split"]).to_pylist())

        for name in names:
            if name not in there:
                raise ConfigError(
                    f"split {name!r}: no utterance has it; the shards hold "
                    f"{', '.join(sorted(there))}"
                )

        return CorpusIndex(
            self.table.filter(pc.is_in(self.table["split"], pa.array(names))).combine_chunks()
        )

    def take(self, rows: NDArray[np.int64]) -> "CorpusIndex":
        """The utterances at `rows`, in that order."""
        return CorpusIndex(self.table.take(pa.array(rows)).combine_chunks())

    def followed_by(self, other: "CorpusIndex") -> "CorpusIndex":
        """These utterances and then the other's."""
        return CorpusIndex(pa.concat_tables([self.table, other.table]).combine_chunks())

    def rows_by_speaker(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers of each speaker, speakers sorted."""
        return group_rows(self.speaker_of_rows)

    def values(self, name: str) -> NDArray[np.float64]:
        """A number from each utterance's json [N]; NaN where the json lacks it.

        `name` is a field, or a path such as `demographics.age`.
        """
        found = [number(dig(json.loads(text), name)) for text in self.table["json"].to_pylist()]
        return np.asarray(found, dtype=np.float64)

    def texts(self, name: str) -> list[str | None]:
        """A field of each utterance's json as text; None where the json lacks it.

        `name` is a field, or a path such as `demographics.voice_type`.
        """
        found = [dig(json.loads(text), name) for text in self.table["json"].to_pylist()]
        return [None if value is None else str(value) for value in found]


def read_index(pattern: str, *, num_threads: int = 8, needs_speakers: bool = True) -> CorpusIndex:
    """Index the shards that match `pattern` (glob, folder or file; local or remote).

    Raises ConfigError when nothing matches, when a sample names no speaker though the recipe
    `needs_speakers`, or when its label is no name of a class or its `label_probs` are no
    distribution, and BadShard when a shard is damaged: packed shards were checked when they were
    written, so training must not pass over later damage.
    """
    files = list_files(pattern)
    with ThreadPoolExecutor(num_threads) as pool:
        parts = list(pool.map(lambda file: _index_one(file.url, needs_speakers), files))

    rows = [row for part in parts for row in part]
    if not rows:
        raise ConfigError(
            f"--shards {pattern}: {len(files)} shards without a single sample; expected packed "
            "shards"
        )

    return CorpusIndex(pa.Table.from_pylist(rows, schema=SCHEMA))


def _index_one(url: str, needs_speakers: bool) -> list[Mapping[str, object]]:
    with open_ranged(url) as reader:
        index = index_shard(reader)
        if index.error is not None:
            raise BadShard("damaged_shard", f"{url}: {index.error}; pack it again")

        rows = []
        for entry in index.entries:
            if entry.error is not None:
                raise BadShard(
                    "damaged_shard", f"{url}: sample {entry.key!r}: {entry.error}; pack it again"
                )

            member = next(
                (member for member in entry.members if member.extension == METADATA_EXTENSION), None
            )
            data = b"{}" if member is None else reader.read_at(member.offset, member.size)

            rows.append(_row(url, entry, data, needs_speakers))

    return rows


def _row(url: str, entry: SampleEntry, data: bytes, needs_speakers: bool) -> Mapping[str, object]:
    try:
        metadata = parse_metadata(data)
    except BadSample as bad:
        raise BadShard(bad.code, f"{url}: sample {entry.key!r}: {bad.detail}") from bad

    speaker = metadata.get("speaker")
    if speaker is None and needs_speakers:
        raise ConfigError(
            f"{url}: sample {entry.key!r} has no `speaker` in its json; training needs one (the "
            "recipes emotion2vec and tapt do not)"
        )

    emotion = metadata.get("emotion")
    return {
        "key": entry.key,
        "shard": url,
        "offset": entry.offset,
        "size": entry.size,
        "speaker": NOBODY if speaker is None else str(speaker),
        "split": str(metadata.get("split") or DEFAULT_SPLIT),
        "duration_seconds": metadata.get("duration_seconds"),
        "label": _label(metadata.get("label"), url, entry.key),
        "label_probs": _probabilities(metadata.get("label_probs"), url, entry.key),
        "emotion": class_name(emotion) if isinstance(emotion, str) else None,
        "json": data.decode("utf-8-sig"),
    }


def _label(value: object, url: str, key: str) -> str | None:
    if value is None:
        return None

    # A table of numbers may name its classes by whole numbers. True and False name nothing.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(
            f"{url}: sample {key!r}: got label {value!r} in its json, expected the name of a "
            "class; correct the column `label` of the table and import it again"
        )
    return class_name(str(value))


def _probabilities(value: object, url: str, key: str) -> Sequence[float] | None:
    if value is None:
        return None

    numbers = value if isinstance(value, list) and all(_is_number(item) for item in value) else []
    if len(numbers) != NUM_EMOTIONS or min(numbers) < 0 or not 0.99 < sum(numbers) < 1.01:
        expected = f"{NUM_EMOTIONS} probabilities that sum to 1"
        raise ConfigError(
            f"{url}: sample {key!r}: got label_probs {value!r} in its json, expected {expected}; "
            "correct the column `label_probs` of the table and import it again"
        )

    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

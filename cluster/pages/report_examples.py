"""What the report plays: a seeded sample of kept and rejected utterances.

Each example has its sound, words and predictions. An utterance is chosen by a hash of the seed and
its name, so the same selection always shows the same examples, in whatever order its rows are.
`rejected.parquet` holds only a key, a shard and a reason; the prediction tables give the other
facts, the shards give the sound. Either may have moved or be out of reach. The page then says so: a
report on numbers must not fail because a few sounds are missing.
"""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.errors import BadSample, BadShard, reason_code
from shards.media.audio import decode_audio, encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.keys import printable
from shards.samples.sample import Sample, parse_sample
from shards.selection.agreement import pairwise_distance
from shards.selection.rule import uniform_numbers
from shards.storage.files import RangedReader, open_ranged
from shards.tables.predictions import MODALITIES, TableInfo, distributions, load_predictions
from shards.tar.reader import read_sample

KEPT_EXAMPLES = 16  # shared between the classes, at least two each
DISAGREEMENTS = 4
EXAMPLES_A_REASON = 3
MAX_REASONS = 8
CLIP_SECONDS = 15.0
MAX_DECODED_SECONDS = 3600.0
MAX_SOUND_BYTES = 4_000_000  # base64 adds a third; the page stays below 6 MB
MAX_WORDS = 400  # characters of a transcript
_COLUMNS = (
    "key",
    "shard",
    "offset",
    "size",
    "speaker",
    "duration_seconds",
    *MODALITIES,
    "transcript",
    "emotion",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One utterance to show, with texts that are fit for a page.

    `reason` is empty for a kept utterance, `silence` for one that can be played.
    """

    key: str
    shard: str
    offset: int
    size: int
    speaker: str
    label: str
    distance: float | None
    reason: str
    teachers: tuple[tuple[str, tuple[float, ...]], ...]
    transcript: str
    truth: str
    sound: str = ""
    silence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason for rejecting: its code, its count, and a few utterances that got it."""

    code: str
    count: int
    cases: tuple[tuple[str, str, str], ...]  # key, shard, what else the reason says


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The examples of a report.

    `simulated` says whether any of them is synthetic, `notes` what could not be reached.
    """

    shown: tuple[Example, ...]
    simulated: bool
    notes: tuple[str, ...]


def common_reasons(rejected: pa.Table, seed: int) -> tuple[Reason, ...]:
    """Return the most frequent reasons, each with a few utterances drawn by hash."""
    texts = rejected["reason"].to_pylist()
    codes = np.asarray([reason_code(text) for text in texts], dtype=object)

    found = []
    for code, count in sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0]))[
        :MAX_REASONS
    ]:
        rows = _draw(rejected, np.flatnonzero(codes == code), EXAMPLES_A_REASON, seed)
        cases = tuple(_case(row) for row in rejected.take(rows).to_pylist())
        found.append(Reason(code=printable(code), count=count, cases=cases))

    return tuple(found)


def choose_examples(
    selection: pa.Table, rejected: pa.Table, summary: Mapping[str, Any], folders: Sequence[str]
) -> Examples:
    """Draw examples, look up their predictions, and read their sound.

    The predictions come from the first of `folders` that has tables.
    """
    config = summary["config"]
    wanted = [*_kept(selection, config), *_disagreeing(rejected, config)]

    try:
        table, infos = _load_any(folders)
    except (ConfigError, OSError, ImportError, pa.ArrowException) as error:
        note = f"No examples: the prediction tables cannot be read ({printable(str(error), 300)})."
        return Examples(shown=(), simulated=False, notes=(note,))
    found = _join(table, wanted, config, summary.get("missing_emotions", {}))
    notes = (
        []
        if len(found) == len(wanted)
        else ["Some examples are missing: the prediction tables no longer have their rows."]
    )

    shown, simulated = _with_sound(found, {info.shard: info.shard_url for info in infos})
    if any(example.silence for example in shown):
        notes.append("Some examples cannot be played; the reason stands in place of the player.")

    return Examples(shown=tuple(shown), simulated=simulated, notes=tuple(notes))


def _kept(selection: pa.Table, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    labels = np.asarray(selection["label"].to_pylist(), dtype=object)
    a_class = max(2, KEPT_EXAMPLES // len(config["classes"]))
    for name in config["classes"]:
        rows = _draw(selection, np.flatnonzero(labels == name), a_class, config["seed"])
        yield from ({**row, "reason": ""} for row in selection.take(rows).to_pylist())


def _disagreeing(rejected: pa.Table, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rows = np.flatnonzero(np.asarray(pc.equal(rejected["reason"], "disagreement")))
    yield from rejected.take(_draw(rejected, rows, DISAGREEMENTS, config["seed"])).to_pylist()


def _draw(table: pa.Table, rows: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    """Draw up to `number` of `rows`: those whose names have the lowest hashes."""
    part = table.select(["shard", "key"]).take(rows)
    names = [f"{row['shard']}\0{row['key']}" for row in part.to_pylist()]
    return rows[np.argsort(uniform_numbers(seed, "report", names), kind="stable")[:number]]


def _load_any(folders: Sequence[str]) -> tuple[pa.Table, list[TableInfo]]:
    first, *others = folders
    try:
        return load_predictions(first, _COLUMNS)
    except (ConfigError, OSError, ImportError):
        for folder in others:
            with suppress(ConfigError, OSError, ImportError):
                return load_predictions(folder, _COLUMNS)
        raise  # the error of the first folder, which the selection was made from


def _join(
    table: pa.Table,
    wanted: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    missing: Mapping[str, Sequence[str]],
) -> list[Example]:
    keys = pa.array([row["key"] for row in wanted], pa.string())
    part = table.filter(pc.is_in(table["key"], value_set=keys)).combine_chunks()
    if not part.num_rows:
        return []

    probs = {name: distributions(part, name) for name in MODALITIES}
    asked = [probs[name] for name in config["teachers"]]
    known = [~np.isin(EMOTIONS, missing.get(name, [])) for name in config["teachers"]]
    distance, mean = pairwise_distance(asked, config["distance"], known), np.mean(asked, axis=0)

    places: dict[tuple[str, str], list[int]] = {}
    for row, place in enumerate(
        zip(part["shard"].to_pylist(), part["key"].to_pylist(), strict=True)
    ):
        places.setdefault(place, []).append(row)

    examples = []
    for request in wanted:
        rows = [
            row
            for row in places.get((request["shard"], request["key"]), [])
            if not np.isnan(mean[row]).any()
        ]
        if rows:
            facts = part.slice(rows[0], 1).to_pylist()[0]
            said = {name: probs[name][rows[0]] for name in MODALITIES}
            examples.append(
                _example(facts, said, mean[rows[0]], float(distance[rows[0]]), request["reason"])
            )

    return examples


def _example(
    facts: Mapping[str, Any],
    said: Mapping[str, NDArray[np.float64]],
    mean: NDArray[np.float64],
    distance: float,
    reason: str,
) -> Example:
    return Example(
        key=facts["key"],
        shard=facts["shard"],
        offset=facts["offset"],
        size=facts["size"],
        speaker=printable(facts["speaker"] or ""),
        label=EMOTIONS[int(np.argmax(mean))],
        distance=None if np.isnan(distance) else distance,
        reason=printable(reason),
        teachers=tuple(
            (name, tuple(map(float, p))) for name, p in said.items() if not np.isnan(p).any()
        ),
        transcript=printable(" ".join((facts["transcript"] or "").split()), MAX_WORDS),
        truth=facts["emotion"] or "",
    )


def _with_sound(examples: Sequence[Example], urls: Mapping[str, str]) -> tuple[list[Example], bool]:
    """Return the examples with their sound, and whether any is synthetic.

    A sound that would make the page too large is left out.
    """
    shown, simulated, room = [], False, MAX_SOUND_BYTES
    with ExitStack() as stack:
        readers: dict[str, RangedReader | str] = {}
        for example in examples:
            if example.shard not in readers:
                readers[example.shard] = _reader(stack, urls[example.shard])
            sample = _read(readers[example.shard], example)
            sound = sample if isinstance(sample, str) else _clip(sample)

            if isinstance(sample, Sample):
                simulated = simulated or "simulation" in sample.metadata

            if isinstance(sound, bytes) and len(sound) > room:
                sound = "left out to keep the page small"
            if isinstance(sound, bytes):
                room -= len(sound)
                sounding = replace(example, sound=base64.b64encode(sound).decode())
            else:
                sounding = replace(example, silence=sound)

            shown.append(
                replace(sounding, key=printable(example.key), shard=printable(example.shard))
            )

    return shown, simulated


def _reader(stack: ExitStack, url: str) -> RangedReader | str:
    """Return the reader of a shard, or the reason why there is none.

    For example, a credential or the library of its file system may be missing here.
    """
    try:
        return stack.enter_context(open_ranged(url))
    except (OSError, ValueError, ImportError) as error:
        return f"shard out of reach: {printable(str(error), 200)}"


def _read(reader: RangedReader | str, example: Example) -> Sample | str:
    if isinstance(reader, str):
        return reader
    try:
        return parse_sample(
            example.key, read_sample(reader, example.key, example.offset, example.size)
        )
    except (BadSample, BadShard, OSError) as error:
        return printable(str(error), 200)


def _clip(sample: Sample) -> bytes | str:
    """Return the first seconds of the sample's sound, or the reason why there are none.

    The sound is FLAC, which every browser plays.
    """
    data = sample.audio or sample.video
    if data is None:
        return "no sound in the sample"
    try:
        samples = decode_audio(data, max_seconds=MAX_DECODED_SECONDS)
    except BadSample as error:
        return printable(error.reason, 200)
    return encode_flac(samples[: int(CLIP_SECONDS * SAMPLE_RATE_HZ)])


def _case(row: Mapping[str, str]) -> tuple[str, str, str]:
    detail = row["reason"].partition(": ")[2]
    return printable(row["key"]), printable(row["shard"]), printable(detail, 200)

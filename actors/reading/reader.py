"""From a tar shard to decoded utterances, in tar order: the work of a reader process.

A reader yields `ShardOpened` first, then lists of `Utterance` of a few megabytes. All it yields
depends only on the shard's bytes and the media settings. So a reader that died is replaced by
another, which starts at the next undelivered utterance, and nobody can tell. A sample that cannot
be used is an utterance with `error` set, never a missing one.

A sample is rejected when its own sound cannot be used, as nobody could train on it. A video without
sound, or in which no face is seen, still has the rest: the utterance keeps it, and `remark` says
what is missing. The alternative was to reject such a video, and would have cost a corpus of film
its narrated scenes. Imports neither Ray nor torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.reading.config import MediaConfig
from actors.reading.utterance import Utterance
from shards.errors import BadSample
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.media.clips import ClipReader
from shards.media.container import DAMAGE_CODES
from shards.media.faces import FaceCropper
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.content import Seen
from shards.samples.metadata import encode_metadata
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import RangedReader, open_ranged
from shards.tar.reader import SampleEntry, index_shard, read_members

if TYPE_CHECKING:
    from shards.tables.earlier import EarlierRows  # with Arrow, which most readers do without

CHUNK_BYTES = 6 * 2**20  # the object store moves chunks of 4 to 8 MB cheapest
CHUNK_UTTERANCES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which modalities somebody will look at; the others are not decoded."""

    audio: bool
    vision: bool
    metadata: bool = False
    clip: ClipFormat | None = None  # of the clips that a recognizer of video sees
    seen: Seen | None = None  # what an utterance's content is made of; None: not asked for


@dataclass(frozen=True, slots=True)
class ShardOpened:
    """The first item of a reader: how many utterances follow, and the shard's damage, if any."""

    num_utterances: int
    error: str | None


class ShardReader:
    """Reads one shard after another, and keeps the face detector loaded between them."""

    def __init__(
        self,
        media: MediaConfig,
        needs: Needs,
        cropper: FaceCropper | None = None,
        earlier: "EarlierRows | None" = None,
    ) -> None:
        self._media = media
        self._needs = needs
        self._earlier = earlier
        self._cropper = cropper if cropper is not None else FaceCropper(media.faces)
        self._clips = None if needs.clip is None else ClipReader(needs.clip)

    def setup(self) -> None:
        """Load the face detector, if the configuration names one.

        Raises ConfigError when the detector cannot be loaded.
        """
        if self._needs.vision and self._media.faces.detector:
            self._cropper.setup()

    def read(
        self, url: str, *, start: int = 0, one_by_one: bool = False
    ) -> Iterator[ShardOpened | list[Utterance]]:
        """Yield `ShardOpened`, then the utterances from index `start` on, in chunks.

        With `one_by_one` a chunk is one utterance. Raises OSError when the shard cannot be opened
        at all. That is the storage's fault and worth another try; a damaged shard is not, and
        `ShardOpened.error` describes its damage.
        """
        with open_ranged(url) as reader:
            index = index_shard(reader)
            yield ShardOpened(len(index.entries), index.error)

            chunk: list[Utterance] = []
            chunk_bytes = 0

            for position in range(start, len(index.entries)):
                utterance = self.decode(reader, index.entries[position], position)
                chunk.append(utterance)
                chunk_bytes += decoded_bytes(utterance)
                if one_by_one or chunk_bytes >= CHUNK_BYTES or len(chunk) >= CHUNK_UTTERANCES:
                    yield chunk
                    chunk, chunk_bytes = [], 0

            if chunk:
                yield chunk

    def decode(self, reader: RangedReader, entry: SampleEntry, position: int) -> Utterance:
        """The utterance at `entry`; its `error` says what is wrong with it, if anything."""
        utterance = Utterance(
            index=position, key=entry.key, offset=entry.offset, size=entry.size, error=entry.error
        )
        if entry.error is not None:
            return utterance

        try:
            members = read_members(reader, entry)
            sample = parse_sample(entry.key, members)
            self._describe(utterance, sample)
            if self._needs.seen is not None:
                utterance.content = self._needs.seen.digest(members, sample.metadata)
            if not self._take_over(utterance, sample):
                self._decode_media(utterance, sample)
        except BadSample as bad:
            utterance.error = bad.reason
        return utterance

    def _describe(self, utterance: Utterance, sample: Sample) -> None:
        utterance.speaker = sample.speaker
        utterance.emotion = sample.emotion
        utterance.language = sample.language
        utterance.transcript = sample.transcript
        utterance.duration_seconds = _stated_duration(sample)

        if self._needs.metadata:
            utterance.metadata = encode_metadata(sample.metadata).decode()

    def _take_over(self, utterance: Utterance, sample: Sample) -> bool:
        """Whether an earlier table has the result; the utterance then gets its row."""
        if self._earlier is None or utterance.content is None:
            return False

        utterance.earlier = self._earlier.find(utterance.content)
        if utterance.earlier is None:
            return False

        # Measured sound outweighs the json, as it did when the earlier row was made.
        if self._needs.audio and (sample.audio is not None or sample.video is not None):
            utterance.duration_seconds = utterance.earlier["duration_seconds"]
        return True

    def _decode_media(self, utterance: Utterance, sample: Sample) -> None:
        utterance.face_features = sample.face_features
        if self._needs.audio and sample.audio is not None:
            self._hear(utterance, sample.audio)

        if sample.video is not None:
            self._watch(utterance, sample.video, has_own_sound=sample.audio is not None)

    def _hear(self, utterance: Utterance, sound: bytes) -> None:
        utterance.audio = decode_audio(sound, max_seconds=self._media.max_audio_seconds)
        utterance.duration_seconds = round(len(utterance.audio) / SAMPLE_RATE_HZ, 3)

    def _look(self, utterance: Utterance, video: bytes) -> None:
        utterance.faces = self._cropper.crops(video)

    def _take_clip(self, utterance: Utterance, video: bytes) -> None:
        assert self._clips is not None  # noqa: S101 (the caller has checked it)
        utterance.clip = self._clips.read(video)

    def _watch(self, utterance: Utterance, video: bytes, *, has_own_sound: bool) -> None:
        """Take from the video what is needed; `remark` says what the video cannot give.

        Raises BadSample when the sample has no other sound and the video is damaged in everything
        that was needed of it.
        """
        steps: list[Callable[[Utterance, bytes], None]] = []
        if self._needs.audio and not has_own_sound:
            steps.append(self._hear)
        if self._needs.vision and self._media.faces.detector and utterance.face_features is None:
            steps.append(self._look)
        if self._clips is not None:
            steps.append(self._take_clip)

        problems: list[BadSample] = []
        for step in steps:
            try:
                step(utterance, video)
            except BadSample as bad:
                problems.append(bad)

        # One problem that is no damage, such as a video without a face, leaves a usable sample.
        is_broken = len(problems) == len(steps) and all(
            bad.code in DAMAGE_CODES for bad in problems
        )
        if problems and is_broken and not has_own_sound:
            raise problems[0]

        utterance.remark = "; ".join(bad.reason for bad in problems) or None


def decoded_bytes(utterance: Utterance) -> int:
    """The number of bytes in an utterance's arrays."""
    arrays = (utterance.audio, utterance.faces, utterance.face_features, utterance.clip)
    return sum(array.nbytes for array in arrays if array is not None)


def _stated_duration(sample: Sample) -> float | None:
    stated = sample.metadata.get("duration_seconds")
    if isinstance(stated, int | float) and not isinstance(stated, bool) and np.isfinite(stated):
        return float(stated)
    return None

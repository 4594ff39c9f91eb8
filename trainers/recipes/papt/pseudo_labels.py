"""Pseudo-labels for masked prediction: clusters of frame features, computed once and stored.

Two passes stream the shards. The first fits k-means (scikit-learn's mini-batch variant) on the
frames of a random sample of utterances; given centers take its place. The second writes the nearest
center of every frame, one Parquet file for each shard. A file appears only when it is complete, so
an interrupted job goes on where it stopped, and ranks share the shards. The alternative was to
label each batch as it comes: with layer features that is a second forward pass in every step of
every epoch.

Shapes: N utterances, T frames, F features, L labels (clusters).
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch, within_seconds
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader, read_once
from shards.progress import OnProgress
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write
from trainers.recipes.papt.frame_features import FrameFeatures

log = logging.getLogger(__name__)

BATCH_UTTERANCES = 32
BATCH_SECONDS = 480.0  # padding included: one long utterance must not make 32 so long
KMEANS_BATCH_FRAMES = 10_000
KMEANS_STARTS = 20
IDENTITY_NAME, CENTERS_NAME = "identity.json", "centres.npy"
SCHEMA = pa.schema([("key", pa.string()), ("row", pa.int64()), ("labels", pa.list_(pa.uint16()))])


class PseudoLabels:
    """The labels of every utterance of an index, one every `hop_samples` samples."""

    def __init__(self, labels: Sequence[NDArray[np.uint16]], hop_samples: int) -> None:
        self._labels, self.hop_samples = labels, hop_samples

    def aligned(
        self, row: int, start_sample: int, num_frames: int, hop_samples: int
    ) -> NDArray[np.int64]:
        """Return the labels [num_frames] of an encoder's frames of utterance `row`.

        The frames are `hop_samples` apart, and the first starts at `start_sample`. If the encoder
        has more frames than there are labels, the last label stands for the rest.
        """
        labels = self._labels[row]
        places = (start_sample + np.arange(num_frames) * hop_samples) // self.hop_samples
        return labels[np.minimum(places, len(labels) - 1)].astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> "PseudoLabels":
        """Keep the labels of the utterances at `rows`, renumbered in that order."""
        return PseudoLabels([self._labels[row] for row in rows.tolist()], self.hop_samples)


class PseudoLabelJob:
    """Computes the labels of one index in one folder."""

    def __init__(
        self,
        folder: Path,
        index: CorpusIndex,
        features: FrameFeatures,
        identity: Mapping[str, object],
    ) -> None:
        self._folder, self._index, self._features = folder, index, features
        self._identity = {**identity, "index": index.digest}
        self._shards = np.asarray(index.table["shard"].to_pylist(), dtype=object)
        self._keys = index.table["key"].to_pylist()

    def fit(self, *, num_labels: int, max_frames: int, seed: int) -> None:
        """Find the centers, unless they are there.

        The files of another corpus or configuration are removed.
        """
        if self._is_ready():
            return

        frames_TF = self._sample(max_frames, np.random.default_rng(seed))
        if len(frames_TF) < num_labels:
            raise ConfigError(
                f"num_labels: got {num_labels}, but the shards have {len(frames_TF)} frames to "
                "cluster"
            )

        kmeans = MiniBatchKMeans(
            num_labels,
            batch_size=KMEANS_BATCH_FRAMES,
            n_init=KMEANS_STARTS,
            random_state=seed,
            reassignment_ratio=0.0,
        ).fit(frames_TF)
        log.info("pseudo-labels: %d clusters of %d frames", num_labels, len(frames_TF))
        self._write_centers(kmeans.cluster_centers_.astype(np.float32))

    def use(self, centers_LF: NDArray[np.float32]) -> None:
        """Take the given centers in place of fitted ones; otherwise as `fit`.

        Raises ConfigError when they have another number of features than the frames.
        """
        if self._is_ready():
            return

        _, frames_TF = next(self._frames(np.zeros(1, dtype=np.int64)))
        if frames_TF.shape[1] != centers_LF.shape[1]:
            raise ConfigError(
                f"model.label_centers: got centers of {centers_LF.shape[1]} numbers, expected "
                f"{frames_TF.shape[1]}, as a frame of the layer that is clustered has; give the "
                "encoder and the layer that they were made with (model.label_encoder, "
                "model.label_layer)"
            )
        self._write_centers(centers_LF)

    def assign(self, on_shard: OnProgress, *, rank: int = 0, world_size: int = 1) -> None:
        """Write the labels of this rank's shards that are not there yet."""
        centers_LF = np.load(self._folder / CENTERS_NAME, allow_pickle=False)

        mine = list(enumerate(np.unique(self._shards)))[rank::world_size]
        for done, (number, shard) in enumerate(mine):
            path = self._folder / f"shard-{number:06d}.parquet"
            if not path.exists():
                _write(path, self._labels_of(np.flatnonzero(self._shards == shard), centers_LF))
            on_shard(done + 1, len(mine))

    def read(self) -> PseudoLabels:
        """Read all labels into memory: two bytes a frame."""
        labels: dict[int, NDArray[np.uint16]] = {}

        for path in sorted(self._folder.glob("shard-*.parquet")):
            table = pq.read_table(path, schema=SCHEMA).combine_chunks()
            column = table["labels"].chunk(0)
            values, ends = column.values.to_numpy(), column.offsets.to_numpy()

            for row, start, end in zip(table["row"].to_pylist(), ends[:-1], ends[1:], strict=True):
                labels[row] = values[start:end]

        return PseudoLabels(
            [labels[row] for row in range(len(self._index))], self._features.hop_samples
        )

    def _is_ready(self) -> bool:
        """Make the folder, remove what is in it of another identity, and look for the centers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        identity_file = self._folder / IDENTITY_NAME

        if not identity_file.exists() or read_json(identity_file) != self._identity:
            for path in self._folder.iterdir():
                path.unlink()
            write_json(identity_file, self._identity)

        return (self._folder / CENTERS_NAME).exists()

    def _write_centers(self, centers_LF: NDArray[np.float32]) -> None:
        stream = io.BytesIO()
        np.save(stream, centers_LF, allow_pickle=False)
        _write(self._folder / CENTERS_NAME, stream.getvalue())

    def _sample(self, max_frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Collect frames of whole utterances, drawn at random, until there are enough."""
        parts: list[NDArray[np.float32]] = []
        num_frames = 0

        for _, frames_TF in self._frames(rng.permutation(len(self._index))):
            parts.append(frames_TF)
            num_frames += len(frames_TF)
            if num_frames >= max_frames:
                break

        return np.concatenate(parts)[:max_frames]

    def _labels_of(self, rows: NDArray[np.int64], centers_LF: NDArray[np.float32]) -> bytes:
        # The nearest center has the largest dot product less half its own square.
        norms_L = np.square(centers_LF).sum(axis=1) / 2
        labels = {
            row: (frames_TF @ centers_LF.T - norms_L).argmax(axis=1).astype(np.uint16)
            for row, frames_TF in self._frames(rows)
        }

        columns = {
            "key": [self._keys[row] for row in labels],
            "row": list(labels),
            "labels": list(labels.values()),
        }

        stream = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), stream, compression="zstd")
        return stream.getvalue()

    def _frames(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        reader = BatchReader(self._index, ["sound"])
        parts = np.array_split(rows, max(1, -(-len(rows) // BATCH_UTTERANCES)))
        planned = within_seconds(
            [PlannedBatch(part, np.arange(len(part))) for part in parts],
            self._index.durations,
            BATCH_SECONDS,
        )

        for batch in read_once(reader, planned):
            sound = batch.inputs["sound"]
            yield from zip(
                batch.rows.tolist(), self._features(sound.values, sound.lengths), strict=True
            )


def _write(path: Path, data: bytes) -> None:
    with atomic_write(str(path)) as stream:
        stream.write(data)

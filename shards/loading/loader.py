"""Packed shards as batches of tensors: decoded, padded, in the planned order, from any position on.

The only file of `shards` that knows torch. Planning is done by `batch_plan`; reading is left to torch's DataLoader,
whose processes each decode whole batches. A rank's position in the global sequence of batches is the loader's whole
state: nothing is shuffled here, so nothing else can be lost.

Shapes: N utterances, S samples, F frames, D features, T pictures of side x side, C classes, V values.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.config import ConfigError
from shards.errors import BadSample, BadShard
from shards.loading.batch_plan import BatchPlan, PlannedBatch
from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets
from shards.media.audio import decode_audio
from shards.media.clip_format import ClipFormat
from shards.media.clips import ClipReader
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import open_ranged
from shards.storage.ranged_reader import RangedReader
from shards.tar.reader import read_sample

Modality = Literal["audio", "face", "video"]

MAX_OPEN_SHARDS = 16
READ_AHEAD_BATCHES = 2
MAX_AUDIO_SECONDS = 600.0


@dataclass(frozen=True)  # no slots: DeepSpeed's ZeRO 3 looks for tensors in __dict__
class Batch:
    """N utterances. `number` is the batch's place in the global, endless order (-1: a repeat that evens out ranks).

    `inputs` is float32 [N, S] (16 kHz, zero-padded), [N, F, D] or [N, T, 3, side, side]; `lengths` int64 [N] counts
    what is not padding.
    `labels` [N] is -1 and `probs` [N, C] or `values` [N, V] NaN where the target is unknown. `sets` [N] says which set
    an utterance belongs to, `rows` [N] which row of the index it is.
    """

    inputs: Tensor
    lengths: Tensor
    labels: Tensor
    probs: Tensor
    values: Tensor
    sets: Tensor
    rows: Tensor
    speakers: Sequence[str]
    number: int

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        names = ("inputs", "lengths", "labels", "probs", "values", "sets", "rows")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


class BatchReader(Dataset[Batch]):
    """Planned batches to tensors; each process that uses it opens shards of its own.

    Utterances are decoded once and kept until `cache_bytes` are full: a small corpus is then read from memory from its
    second epoch on. Nothing is dropped again to make room, since every epoch asks for every utterance once. `clip` says
    what is made of video; it is given for that modality and no other.
    """

    def __init__(
        self,
        index: CorpusIndex,
        targets: Targets,
        modality: Modality,
        *,
        cache_bytes: int = 0,
        clip: ClipFormat | None = None,
    ) -> None:
        if (clip is not None) != (modality == "video"):
            raise ConfigError(f"clip: got {clip} for {modality}, expected a clip's format exactly for video")
        self._keys = index.table["key"].to_pylist()
        self._shards = index.table["shard"].to_pylist()
        self._offsets = index.table["offset"].to_numpy()
        self._sizes = index.table["size"].to_numpy()
        self._speakers = index.table["speaker"].to_pylist()
        self._targets, self._modality = targets, modality
        self._open: OrderedDict[str, RangedReader] = OrderedDict()
        self._decoded: dict[int, NDArray[Any]] = {}
        self._room_bytes = cache_bytes
        self._clips = None if clip is None else ClipReader(clip)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict(), "_decoded": {}}

    def __getitem__(self, item: tuple[int, PlannedBatch]) -> Batch:
        number, planned = item
        arrays: dict[int, NDArray[Any]] = {}
        for row in sorted(planned.rows.tolist(), key=lambda row: (self._shards[row], self._offsets[row])):
            media = self._media_of(row)
            arrays[row] = media if self._clips is None else self._clips.standardised(media)
        inputs, lengths = _padded([arrays[row] for row in planned.rows.tolist()])
        rows, targets = planned.rows, self._targets
        return Batch(
            inputs=inputs,
            lengths=lengths,
            labels=torch.from_numpy(targets.labels[rows]),
            probs=torch.from_numpy(targets.probs[rows]),
            values=torch.from_numpy(targets.values[rows]),
            sets=torch.from_numpy(planned.sets),
            rows=torch.from_numpy(rows),
            speakers=[self._speakers[row] for row in rows.tolist()],
            number=number,
        )

    def _media_of(self, row: int) -> NDArray[Any]:
        """As `_decode`, from memory where it is there."""
        found = self._decoded.get(row)
        if found is None:
            found = self._decode(row)
            if found.nbytes <= self._room_bytes:
                self._room_bytes -= found.nbytes
                self._decoded[row] = found
        return found

    def _decode(self, row: int) -> NDArray[Any]:
        """The samples [S], features [F, D] or clip (bytes) of one utterance; BadShard names one that cannot be used."""
        key, shard = self._keys[row], self._shards[row]
        try:
            members = read_sample(self._reader(shard), key, int(self._offsets[row]), int(self._sizes[row]))
            sample = parse_sample(key, members)
            return _media(sample, self._modality) if self._clips is None else _clip(sample, self._clips)
        except (BadSample, BadShard) as bad:
            raise BadShard(bad.code, f"{shard}: sample {key!r}: {bad.detail}") from bad

    def _reader(self, url: str) -> RangedReader:
        if url not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
            self._open[url] = open_ranged(url)
        self._open.move_to_end(url)
        return self._open[url]


class TrainingLoader:
    """This rank's share of an endless stream of batches, epoch after epoch.

    A step takes the next `batches_per_step` batches of the global order; rank r of R takes every R-th of these, so any
    world size sees the same steps. Raises ConfigError when the shares would be unequal.
    """

    def __init__(
        self,
        reader: BatchReader,
        plan: BatchPlan,
        *,
        identity: str,
        batches_per_step: int = 1,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        if batches_per_step % world_size:
            raise ConfigError(
                f"batches_per_step: got {batches_per_step} for {world_size} workers, expected a multiple of them, so "
                "that every worker does the same"
            )
        self._reader, self._plan, self._identity = reader, plan, identity
        self._batches_per_step, self._rank, self._world_size = batches_per_step, rank, world_size
        self._num_workers = num_workers
        self._epoch, self._epoch_start, self._next = 0, 0, 0  # epoch, its first batch, this stream's next batch
        self.batches_per_epoch = len(plan.epoch(0))
        self.wait_seconds = 0.0
        self.padding_samples, self.total_samples = 0, 0

    @property
    def padding_share(self) -> float:
        """Share of padding in all that was handed out."""
        return self.padding_samples / self.total_samples if self.total_samples else 0.0

    @property
    def epochs(self) -> float:
        """How many epochs have been handed out to all ranks."""
        return self._epoch + (self._next - self._epoch_start) / self.batches_per_epoch

    def steps_of(self, num_epochs: int) -> int:
        """Steps that take up so many epochs; the last may begin the next one."""
        num_batches = sum(len(self._plan.epoch(number)) for number in range(num_epochs))

        return -(-num_batches // self._batches_per_step)

    def state_dict(self) -> dict[str, Any]:
        """The position, which is the same for every rank after a whole step."""
        start = {"epoch": self._epoch, "epoch_start": self._epoch_start}
        return {"identity": self._identity, "next_batch": self._next, **start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position. Raises ConfigError when it belongs to other data, another view or seed."""
        if state["identity"] != self._identity:
            raise ConfigError(
                "resume: the shards, the view, the target or the seed are not those the run was started with; give a "
                "new --out, or the old options"
            )
        self._epoch, self._epoch_start, self._next = (
            int(state[name]) for name in ("epoch", "epoch_start", "next_batch")
        )

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches from the present position on, without end."""
        for number, epoch, epoch_start, batch in self._read():
            self._epoch, self._epoch_start = epoch, epoch_start
            step_start = number - number % self._batches_per_step
            last_of_rank = number + self._world_size >= step_start + self._batches_per_step
            self._next = step_start + self._batches_per_step if last_of_rank else number + 1
            self._count(batch)
            yield batch

    def _read(self) -> Iterator[tuple[int, int, int, Batch]]:
        places = self._places()
        ahead: list[tuple[int, int, int]] = []

        def planned() -> Iterator[tuple[int, PlannedBatch]]:
            for number, epoch, epoch_start, batch in places:
                ahead.append((number, epoch, epoch_start))
                yield number, batch

        batches = _read_in_order(self._reader, planned(), self._num_workers)
        while True:
            started = time.perf_counter()
            batch = next(batches)
            self.wait_seconds += time.perf_counter() - started
            yield (*ahead.pop(0), batch)

    def _places(self) -> Iterator[tuple[int, int, int, PlannedBatch]]:
        """Number, epoch, that epoch's first number and plan of each of this rank's batches."""
        epoch, start = self._epoch, self._epoch_start
        first = self._next
        while True:
            batches = self._plan.epoch(epoch)
            for number in range(max(first, start), start + len(batches)):
                if number % self._batches_per_step % self._world_size == self._rank:
                    yield number, epoch, start, batches[number - start]
            epoch, start = epoch + 1, start + len(batches)

    def _count(self, batch: Batch) -> None:
        capacity = batch.inputs.shape[0] * batch.inputs.shape[1]
        self.total_samples += capacity
        self.padding_samples += capacity - int(batch.lengths.sum())


def read_once(
    reader: BatchReader, batches: Sequence[PlannedBatch], *, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> Iterator[Batch]:
    """This rank's part of a finite list. Every rank gets as many: surplus ones repeat the last and are numbered -1."""
    mine = [(place, batches[place]) for place in range(rank, len(batches), world_size)]
    if batches and len(mine) < -(-len(batches) // world_size):
        mine.append((-1, batches[-1]))
    return _read_in_order(reader, iter(mine), num_workers)


def _read_in_order(
    reader: BatchReader, planned: Iterator[tuple[int, PlannedBatch]], num_workers: int
) -> Iterator[Batch]:
    if num_workers:
        # Spawned: a fork would copy the locks of the training process' threads.
        outcomes: Iterator[Batch | BadShard | OSError] = iter(
            DataLoader(
                _Outcomes(reader),
                sampler=planned,
                batch_size=None,
                num_workers=num_workers,
                multiprocessing_context="spawn",
            )
        )
        for outcome in outcomes:
            if not isinstance(outcome, Batch):
                raise outcome
            yield outcome
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(reader.__getitem__, item) for item in islice(planned, READ_AHEAD_BATCHES)]
        while waiting:
            batch = waiting.pop(0).result()
            waiting += [pool.submit(reader.__getitem__, item) for item in islice(planned, 1)]
            yield batch


class _Outcomes(Dataset["Batch | BadShard | OSError"]):
    """What a reader returns or raises, as a value: DataLoader wraps what a worker process raises in a traceback."""

    def __init__(self, reader: BatchReader) -> None:
        self._reader = reader

    def __getitem__(self, item: tuple[int, PlannedBatch]) -> Batch | BadShard | OSError:
        try:
            return self._reader[item]
        except (BadShard, OSError) as error:
            return error


def _media(sample: Sample, modality: Modality) -> NDArray[np.float32]:
    if modality == "face":
        if sample.face_features is None:
            raise BadSample("no_face_features", "the sample has no face.npy, which this training needs")
        return sample.face_features
    sound = sample.audio if sample.audio is not None else sample.video
    if sound is None:
        raise BadSample("no_audio", "the sample has no sound, which this training needs")
    return decode_audio(sound, max_seconds=MAX_AUDIO_SECONDS)


def _clip(sample: Sample, clips: ClipReader) -> NDArray[np.uint8]:
    if sample.video is None:
        raise BadSample("no_video", "the sample has no video, which this training needs")
    return clips.read(sample.video)


def _padded(arrays: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    lengths = [len(array) for array in arrays]
    padded = np.zeros((len(arrays), max(lengths), *arrays[0].shape[1:]), dtype=np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded), torch.tensor(lengths)

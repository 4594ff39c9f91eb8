"""Packed shards as batches of tensors: decoded, padded, in the planned order, from any position on.

The only file of `shards` that knows torch. `batch_plan` plans; torch's DataLoader reads, with
processes that each decode whole batches. A rank's position in the global sequence of batches is the
loader's whole state: nothing is shuffled here, so nothing else can be lost.

Shapes: N utterances, L the longest's length, W numbers of a target.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.config import ConfigError
from shards.errors import BadSample, BadShard
from shards.loading.batch_plan import BatchPlan, PlannedBatch
from shards.loading.crop import Crop
from shards.loading.decoding import Decoder, make_decoders
from shards.loading.index import CorpusIndex
from shards.loading.inputs import InputName
from shards.media.clip_format import ClipFormat
from shards.media.padding import pad
from shards.samples.sample import parse_sample
from shards.storage.open_files import OpenFiles
from shards.tables.feature_store import FeatureStore
from shards.tar.reader import read_sample

MAX_OPEN_SHARDS = 16
READ_AHEAD_BATCHES = 2

# The inputs of one utterance; None for an input that it lacks.
Decoded = Mapping[InputName, NDArray[Any] | None]


@dataclass(frozen=True)  # no slots: DeepSpeed's ZeRO 3 looks for tensors in __dict__
class Padded:
    """One input of N utterances: float32 `values` [N, L, ...] and int64 `lengths` [N].

    `values` are zero after an utterance's end: [N, samples] of 16 kHz sound, [N, frames, numbers]
    of a face, [N, pictures, 3, side, side] of a clip, [N, frames, states, numbers] of stored
    states. An utterance that lacks the input has length 0.
    """

    values: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> "Padded":
        """The same on `device`."""
        return Padded(
            self.values.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True)
        )


@dataclass(frozen=True)  # no slots, as above
class Batch:
    """The inputs and targets of N utterances.

    `inputs` and `targets` have the names they were asked for by; a target is float32 [N, W], NaN
    where it is unknown. `sets` [N] says which set an utterance belongs to, `rows` [N] which row of
    the index it is. `number` is the batch's place in the global, endless order; it is -1 for a
    repeated batch, which evens out ranks.
    """

    inputs: Mapping[InputName, Padded]
    targets: Mapping[str, Tensor]
    sets: Tensor
    rows: Tensor
    speakers: Sequence[str]
    number: int

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            inputs={name: padded.to(device) for name, padded in self.inputs.items()},
            targets={
                name: target.to(device, non_blocking=True) for name, target in self.targets.items()
            },
            sets=self.sets.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
        )


class BatchReader(Dataset[Batch]):
    """Turns planned batches into tensors; each process that uses it opens shards of its own.

    `inputs` are read of every utterance, which must have one of them; `targets` are [rows of the
    index, W] by name. `clip` is the format of clips, and `features` holds stored states; each is
    given exactly when these are among the inputs. `crop` cuts long utterances.

    Utterances are decoded once and kept until `cache_bytes` are full: a small corpus is then read
    from memory from its second epoch on. Nothing is dropped again to make room, since every epoch
    asks for every utterance once.
    """

    def __init__(
        self,
        index: CorpusIndex,
        inputs: Sequence[InputName],
        targets: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        cache_bytes: int = 0,
        clip: ClipFormat | None = None,
        crop: Crop | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        self._decoders = make_decoders(inputs, clip, features)

        self._keys = index.table["key"].to_pylist()
        self._shards = index.table["shard"].to_pylist()
        self._offsets = index.table["offset"].to_numpy()
        self._sizes = index.table["size"].to_numpy()
        self._speakers = index.table["speaker"].to_pylist()
        self._targets = targets or {}
        self._seconds, self._crop = index.durations, crop

        self._open = OpenFiles(MAX_OPEN_SHARDS)
        self._decoded: dict[int, Decoded] = {}
        self._room_bytes = cache_bytes

    def __getstate__(self) -> dict[str, Any]:
        # Why empty: a copy of the cache would be sent to every reading process.
        return self.__dict__ | {"_decoded": {}}

    def __getitem__(self, item: tuple[int, PlannedBatch]) -> Batch:
        number, planned = item
        rows = planned.rows

        found: dict[int, Decoded] = {}
        # Why sorted: each shard is read from front to back, whatever the order of the batch.
        for row in sorted(rows.tolist(), key=lambda row: (self._shards[row], self._offsets[row])):
            found[row] = self._cropped(self._from_memory(row), number, row)

        ordered = [found[row] for row in rows.tolist()]
        return Batch(
            inputs={
                name: _padded(ordered, name, decoder) for name, decoder in self._decoders.items()
            },
            targets={
                name: torch.from_numpy(target[rows]) for name, target in self._targets.items()
            },
            sets=torch.from_numpy(planned.sets),
            rows=torch.from_numpy(rows),
            speakers=[self._speakers[row] for row in rows.tolist()],
            number=number,
        )

    def _cropped(self, whole: Decoded, batch_number: int, row: int) -> Decoded:
        if self._crop is None:
            return whole

        seconds = float(self._seconds[row])
        return self._crop.of(whole, seconds=seconds, batch_number=batch_number, row=row)

    def _from_memory(self, row: int) -> Decoded:
        """The inputs of one utterance, decoded only if they are not in memory."""
        found = self._decoded.get(row)
        if found is None:
            found = self._decode(row)
            size = sum(array.nbytes for array in found.values() if array is not None)
            if size <= self._room_bytes:
                self._room_bytes -= size
                self._decoded[row] = found

        return found

    def _decode(self, row: int) -> Decoded:
        """The inputs of one utterance. Raises BadShard, which names an unusable utterance."""
        key, shard = self._keys[row], self._shards[row]

        try:
            members = read_sample(
                self._open[shard], key, int(self._offsets[row]), int(self._sizes[row])
            )
            sample = parse_sample(key, members)
            place = shard, int(self._offsets[row])
            found = {
                name: decoder.decode(sample, place) for name, decoder in self._decoders.items()
            }
            if all(array is None for array in found.values()):
                raise next(iter(self._decoders.values())).missing()
        except (BadSample, BadShard) as bad:
            raise BadShard(bad.code, f"{shard}: sample {key!r}: {bad.detail}") from bad

        return found


def _padded(ordered: Sequence[Decoded], name: InputName, decoder: Decoder) -> Padded:
    """One input of a batch."""
    lacking = np.empty((0, *decoder.shape), dtype=np.float32)
    arrays = [
        lacking if (kept := found[name]) is None else decoder.ready(kept) for found in ordered
    ]
    values, lengths = pad(arrays)

    return Padded(torch.from_numpy(values), torch.from_numpy(lengths))


class TrainingLoader:
    """This rank's share of an endless stream of batches, epoch after epoch.

    A step takes the next `batches_per_step` batches of the global order; rank r of R takes every
    R-th of these, so any world size sees the same steps. Raises ConfigError when the shares would
    be unequal.
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
                f"batches_per_step: got {batches_per_step} for {world_size} workers, expected a "
                "multiple of them, so that every worker does the same"
            )

        self._reader, self._plan, self._identity = reader, plan, identity
        self._batches_per_step, self._rank, self._world_size = batches_per_step, rank, world_size
        self._num_workers = num_workers
        # The present epoch, that epoch's first batch, and this stream's next batch.
        self._epoch, self._epoch_start, self._next = (0, 0, 0)

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
        """Continue at a saved position.

        Raises ConfigError when the position was saved with other data, another view or seed.
        """
        if state["identity"] != self._identity:
            raise ConfigError(
                "resume: the shards, the view, the target or the seed are not those the run was "
                "started with; give a new --out, or the old options"
            )
        self._epoch, self._epoch_start, self._next = (
            int(state[name]) for name in ("epoch", "epoch_start", "next_batch")
        )

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches from the present position on; they never end."""
        for number, epoch, epoch_start, batch in self._read():
            self._epoch, self._epoch_start = epoch, epoch_start

            # Why at once past the step: a position that is saved must be the same on all ranks.
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
            # Why max: a resumed run may begin in the middle of an epoch.
            for number in range(max(first, start), start + len(batches)):
                if number % self._batches_per_step % self._world_size == self._rank:
                    yield number, epoch, start, batches[number - start]
            epoch, start = epoch + 1, start + len(batches)

    def _count(self, batch: Batch) -> None:
        for padded in batch.inputs.values():
            capacity = padded.values.shape[0] * padded.values.shape[1]
            self.total_samples += capacity
            self.padding_samples += capacity - int(padded.lengths.sum())


def read_once(
    reader: BatchReader,
    batches: Sequence[PlannedBatch],
    *,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """This rank's part of a finite list of batches.

    Every rank gets equally many: a rank with one too few repeats the last batch, numbered -1.
    """
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
        waiting = [
            pool.submit(reader.__getitem__, item) for item in islice(planned, READ_AHEAD_BATCHES)
        ]

        while waiting:
            batch = waiting.pop(0).result()
            waiting += [pool.submit(reader.__getitem__, item) for item in islice(planned, 1)]
            yield batch


class _Outcomes(Dataset["Batch | BadShard | OSError"]):
    """Hands over what a reader returns or raises, as a value.

    DataLoader would wrap an error of a reading process in a traceback.
    """

    def __init__(self, reader: BatchReader) -> None:
        self._reader = reader

    def __getitem__(self, item: tuple[int, PlannedBatch]) -> Batch | BadShard | OSError:
        try:
            return self._reader[item]
        except (BadShard, OSError) as error:
            return error

"""What each method of the speaker index does with a request; knows nothing of connections.

The gRPC server and the Ray Serve deployment both answer with `SpeakerService`. Whoever calls
a method has been admitted before.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.errors import NoLabelsError, RequestError, UnknownSpeakerError
from actors.speaker_index.search.generation import Generation, Neighbors
from actors.speaker_index.serving.config import Limits
from actors.speaker_index.serving.search_queue import Allowed, Search, SearchQueue, all_allowed
from actors.speaker_index.storage.store import Written
from actors.speaker_index.storage.writes import Deletion, Upsert, Write
from actors.speaker_index.wire import (
    Layout,
    check_fingerprint,
    encode_search,
    neighbor_messages,
    pack_vectors,
    speaker_to_message,
    speakers_to_table,
)
from protos import speaker_index_pb2 as messages
from shards.samples.keys import printable, speaker_problem
from shards.speakers.pldc import Mode, calibrate
from shards.speakers.table import MAX_METADATA_ENTRIES

MODES: Mapping[int, Mode] = {
    messages.CALIBRATION_MODE_MU: "mu",
    messages.CALIBRATION_MODE_SIGMA: "sigma",
    messages.CALIBRATION_MODE_BOTH: "both",
}
# Up to this many excluded speakers are dropped from a longer list of neighbors. With more, the
# search is filtered.
FEW_EXCLUDED = 64


Finish = Callable[[Generation, Neighbors], bytes]


class SpeakerIndex(Protocol):
    """The index that is served: a store that takes writes, or a follower that refuses them.

    `generation` is the newest whole state, and `layout` what all its speakers share. `failure` says
    why the index takes no more writes, or shows an old state; None while all is well.
    """

    generation: Generation
    layout: Layout
    failure: BaseException | None

    def submit(self, write: Write) -> Future[Written]:
        """Queue a write. Raises ReadOnlyError when the index takes no writes."""

    def close(self) -> None:
        """Finish what has begun, and let go of the folder."""


class SpeakerService:
    """A coroutine for each method of the service; for use from one event loop.

    Each takes a request and the seconds left for it, returns the encoded response, and raises
    RequestError for a request that no index could serve.
    """

    def __init__(self, index: SpeakerIndex, limits: Limits, *, num_threads: int) -> None:
        self.index, self._limits = index, limits
        self.queue = SearchQueue(lambda: index.generation, num_threads=num_threads)

    async def search(self, request: messages.SearchRequest, seconds: float) -> bytes:
        """Answer `Search`: an encoded SearchResponse."""
        layout = self.index.layout
        check_fingerprint(request.encoder_fingerprint, layout)
        self._check_k(request.k, len(request.vectors))
        packed = pack_vectors(request.vectors, layout.width)
        excluded, k = tuple(request.exclude_ids), request.k
        self._check_names(excluded)

        if len(request.metadata_equals) > MAX_METADATA_ENTRIES:
            raise RequestError(
                f"metadata_equals: got {len(request.metadata_equals)} entries, expected at most "
                f"{MAX_METADATA_ENTRIES}, because no speaker has more"
            )

        # A filtered search is made alone, while a plain search shares a batch with others. So a few
        # excluded speakers are no filter: the search asks for as many more neighbors, and `finish`
        # drops the excluded ones. Their numbers are looked up in `finish` and `allowed`, because a
        # speaker has another number in each generation, and only there the generation is known.
        if not request.metadata_equals and len(excluded) <= FEW_EXCLUDED:

            def finish(generation: Generation, found: Neighbors) -> bytes:
                return encode_search(generation, _without(found, _numbers(generation, excluded), k))

            return await self._find(
                packed, len(request.vectors), k + len(excluded), finish, all_allowed, seconds
            )

        wanted = dict(request.metadata_equals)

        def allowed(generation: Generation) -> NDArray[np.bool_]:
            return generation.allowed(_numbers(generation, excluded), wanted)

        return await self._find(packed, len(request.vectors), k, encode_search, allowed, seconds)

    async def calibrate(self, request: messages.CalibrateRequest, seconds: float) -> bytes:
        """Answer `Calibrate`: an encoded CalibrateResponse, by Eq. 3 of papt-pldc.

        The k neighbors are the most alike speakers that have labels of all dimensions asked for.
        Raises NoLabelsError when there are none, UnknownSpeakerError for an unknown `speaker_id`.
        """
        self._check_k(request.k, 1)
        mode = MODES.get(request.mode)
        if mode is None:
            raise RequestError(f"mode: got {request.mode}, expected mu (1), sigma (2) or both (3)")

        predictions = self._predictions(request.predictions)
        packed, itself = self._target(request)
        self._check_names(request.exclude_ids)
        excluded = (*request.exclude_ids, *itself)

        dimensions = [self.index.layout.dimensions.index(name) for name in predictions]

        def allowed(generation: Generation) -> NDArray[np.bool_]:
            mask = generation.allowed(_numbers(generation, excluded), {})
            return mask & generation.labeled(dimensions)

        def finish(generation: Generation, found: Neighbors) -> bytes:
            return _calibrated(generation, found, predictions, dimensions, mode)

        return await self._find(packed, 1, request.k, finish, allowed, seconds)

    async def upsert(self, request: messages.UpsertRequest, _: float) -> bytes:
        """Answer `Upsert`: an encoded UpsertResponse, once the write would survive a power loss."""
        check_fingerprint(request.encoder_fingerprint, self.index.layout)

        if not 0 < len(request.speakers) <= self._limits.max_vectors:
            raise RequestError(
                f"speakers: got {len(request.speakers)}, expected 1 to {self._limits.max_vectors}"
            )

        table = speakers_to_table(request.speakers, self.index.layout)
        written = await asyncio.wrap_future(self.index.submit(Upsert(table, request)))
        return messages.UpsertResponse(generation=written.generation).SerializeToString()

    async def delete(self, request: messages.DeleteRequest, _: float) -> bytes:
        """Answer `Delete`: an encoded DeleteResponse, once the write would survive a power loss."""
        self._check_names(request.ids)
        if not request.ids:
            raise RequestError("ids: got none, expected at least one name to delete")

        # A name that is given twice must not count twice as deleted.
        written = await asyncio.wrap_future(
            self.index.submit(Deletion(tuple(dict.fromkeys(request.ids))))
        )

        answer = messages.DeleteResponse(
            generation=written.generation, num_deleted=written.num_known
        )
        return answer.SerializeToString()

    async def get(self, request: messages.GetRequest, _: float) -> bytes:
        """Answer `Get`: an encoded GetResponse. Raises UnknownSpeakerError for an unknown name."""
        generation = self.index.generation
        table, row = generation.locate(self._known(generation, request.id))

        return messages.GetResponse(
            generation=generation.number, speaker=speaker_to_message(table, row)
        ).SerializeToString()

    async def describe(self, _: messages.DescribeRequest, __: float) -> bytes:
        """Answer `Describe`: an encoded DescribeResponse."""
        generation, layout = self.index.generation, self.index.layout
        index = generation.base.index

        return messages.DescribeResponse(
            num_speakers=len(generation),
            dimension=layout.width,
            encoder_fingerprint=layout.fingerprint,
            index_kind="" if index is None else index.description,
            generation=generation.number,
            encoder=layout.encoder,
            label_dimensions=layout.dimensions,
            max_vectors=self._limits.max_vectors,
            max_k=self._limits.max_k,
        ).SerializeToString()

    def close(self) -> None:
        """Wait until the threads that search have finished, and end them."""
        self.queue.close()

    async def _find(
        self,
        packed: bytes,
        num_vectors: int,
        k: int,
        finish: Finish,
        allowed: Allowed,
        seconds: float,
    ) -> bytes:
        deadline = time.monotonic() + seconds
        return await self.queue.answer(
            Search(
                packed=packed,
                num_vectors=num_vectors,
                k=k,
                finish=finish,
                allowed=allowed,
                deadline=deadline,
            )
        )

    def _check_k(self, k: int, num_vectors: int) -> None:
        limits = self._limits
        if not 0 < k <= limits.max_k:
            raise RequestError(f"k: got {k}, expected 1 to {limits.max_k}")

        if not 0 < num_vectors <= limits.max_vectors:
            raise RequestError(f"vectors: got {num_vectors}, expected 1 to {limits.max_vectors}")

        if num_vectors * k > limits.max_neighbors:
            raise RequestError(
                f"vectors and k: got {num_vectors} times {k} neighbors, expected at most "
                f"{limits.max_neighbors} in one answer; send fewer vectors at a time"
            )

    def _check_names(self, names: Sequence[str]) -> None:
        if len(names) > self._limits.max_vectors:
            raise RequestError(
                f"ids: got {len(names)}, expected at most {self._limits.max_vectors} names"
            )

        for name in names:
            if problem := speaker_problem(name):
                raise RequestError(f"id: {problem}")

    def _known(self, generation: Generation, name: str) -> int:
        self._check_names([name])
        number = generation.find(name)
        if number is None:
            raise UnknownSpeakerError(f"speaker '{printable(name, 80)}' is not in the index")

        return number

    def _target(self, request: messages.CalibrateRequest) -> tuple[bytes, tuple[str, ...]]:
        """The packed vector to look for, and the names that must not be its neighbors.

        These are none for a vector. A speaker of the index must not be its own neighbor.
        """
        which = request.WhichOneof("speaker")
        if which == "vector":
            check_fingerprint(request.encoder_fingerprint, self.index.layout)
            return pack_vectors([request.vector], self.index.layout.width), ()

        if which == "speaker_id":
            generation = self.index.generation
            table, row = generation.locate(self._known(generation, request.speaker_id))
            return table.vectors[row].astype("<f4").tobytes(), (request.speaker_id,)
        raise RequestError("speaker: got neither vector nor speaker_id, expected one of them")

    def _predictions(self, given: Sequence[messages.Predictions]) -> dict[str, NDArray[np.float64]]:
        """The predictions [N] of each label dimension, checked; N may differ between dimensions."""
        total = sum(len(one.values) for one in given)
        if not given or total > self._limits.max_predictions:
            raise RequestError(
                f"predictions: got {total} numbers of {len(given)} dimensions, expected 1 to "
                f"{self._limits.max_predictions} numbers of at least one dimension"
            )

        found: dict[str, NDArray[np.float64]] = {}
        for one in given:
            if one.dimension not in self.index.layout.dimensions or one.dimension in found:
                known = ", ".join(self.index.layout.dimensions) or "none"
                got = printable(one.dimension, 80)
                raise RequestError(
                    f"predictions: got dimension '{got}', expected each of {known} at most once"
                )

            values = np.asarray(one.values, dtype=np.float64)
            if not len(values) or not np.isfinite(values).all():
                raise RequestError(
                    f"predictions of {one.dimension}: got no number or one that is not finite; "
                    "expected at least one number, all of them finite"
                )

            found[one.dimension] = values

        return found


def _numbers(generation: Generation, names: Sequence[str]) -> list[int]:
    """The numbers of those of `names` that are in the generation."""
    return [number for number in map(generation.find, names) if number is not None]


def _without(found: Neighbors, excluded: list[int], k: int) -> Neighbors:
    """The first k neighbors of each query that are not excluded; -1 where there are fewer."""
    numbers, similarities = found
    if not excluded:
        return numbers[:, :k], similarities[:, :k]

    left_out = np.isin(numbers, excluded)

    # False sorts before True, and a stable sort keeps the order of the similarities: columns with
    # an excluded speaker move to the end. Those among the first k become -1.
    order = np.argsort(left_out, axis=1, kind="stable")[:, :k]
    kept = np.where(
        np.take_along_axis(left_out, order, axis=1), -1, np.take_along_axis(numbers, order, axis=1)
    )
    return kept, np.take_along_axis(similarities, order, axis=1)


def _calibrated(
    generation: Generation,
    found: Neighbors,
    predictions: Mapping[str, NDArray[np.float64]],
    dimensions: Sequence[int],
    mode: Mode,
) -> bytes:
    """An encoded CalibrateResponse; every neighbor found has labels of all `dimensions`.

    Raises NoLabelsError when no neighbor was found.
    """
    numbers = [number for number in found[0][0].tolist() if number >= 0]
    if not numbers:
        raise NoLabelsError(
            f"no other speaker of the index has labels of {', '.join(predictions)}; leave "
            "dimensions out, or exclude fewer speakers"
        )

    rows = [generation.locate(number) for number in numbers]
    # The mean over the neighbors, for each dimension asked for [V]. `place` below counts these
    # dimensions, which are in the order of `predictions`.
    mean = np.mean([table.label_mean[row, dimensions] for table, row in rows], axis=0)
    std = np.mean([table.label_std[row, dimensions] for table, row in rows], axis=0)

    calibrated = [
        messages.Predictions(
            dimension=name,
            values=calibrate(values[:, None], mean[place, None], std[place, None], mode)[
                :, 0
            ].tolist(),
        )
        for place, (name, values) in enumerate(predictions.items())
    ]

    return messages.CalibrateResponse(
        generation=generation.number,
        calibrated=calibrated,
        neighbours=neighbor_messages(generation, found),
    ).SerializeToString()

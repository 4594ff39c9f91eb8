"""Cuts utterances to a greatest length, so that one long utterance does not pad a whole batch.

In training the place is drawn anew for each batch, from the seed, the number of the batch and the
row: it depends neither on ranks nor on a resume, and over the epochs all of an utterance is heard.
Elsewhere the beginning is kept. Always keeping the beginning lost: whatever comes later would never
be learned from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.loading.inputs import InputName
from shards.media.sound_format import SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """What is left of utterances longer than `max_seconds`.

    It is a stretch at a random place, drawn by `seed`; without a seed it is the beginning.
    """

    max_seconds: float
    seed: int | None = None

    def of(
        self,
        inputs: Mapping[InputName, NDArray[Any] | None],
        *,
        seconds: float,
        batch_number: int,
        row: int,
    ) -> dict[InputName, NDArray[Any] | None]:
        """Cut the inputs of one utterance of `seconds`, all at the same place.

        Clips are left alone: they have as many pictures whatever the utterance's length is.
        """
        place = 0.0
        if self.seed is not None:
            # A batch that evens out ranks has the number -1, which is no seed.
            place = float(np.random.default_rng([self.seed, batch_number + 1, row]).random())

        return {
            name: found if found is None else found[self._stretch(name, len(found), seconds, place)]
            for name, found in inputs.items()
        }

    def _stretch(self, name: InputName, length: int, seconds: float, place: float) -> slice:
        """The stretch to keep of a sequence of `length`; `place` is a share of what is to spare."""
        if name == "clip":
            return slice(None)

        # How many samples a second has is known; how many face features, only the utterance tells.
        rate = SAMPLE_RATE_HZ if name == "sound" else length / seconds
        kept = max(1, round(self.max_seconds * rate))
        start = int(place * (max(0, length - kept) + 1))
        return slice(start, start + kept)

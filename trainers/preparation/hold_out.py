"""Which utterances recipes without labels validate on: some of each speaker, or whole speakers."""

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex


def hold_out(index: CorpusIndex, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Choose the utterances for validation: `share` of each speaker's utterances.

    A speaker of two or more utterances has at least one among them. Utterances without a speaker
    count as those of one. Raises ConfigError when there is none to hold out.
    """
    rng, held_out = np.random.default_rng(seed), np.zeros(len(index), dtype=bool)
    for rows in index.rows_by_speaker().values():
        number = min(len(rows) - 1, max(1, round(share * len(rows))))
        held_out[rng.permutation(rows)[:number]] = True

    if not held_out.any():
        raise ConfigError(
            "held_out_share: no speaker has two utterances, so none can be held out for validation"
        )

    return held_out


def hold_out_speakers(index: CorpusIndex, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Choose whole speakers for validation, until they have `share` of the utterances.

    Raises ConfigError when no speaker would be left to learn from.
    """
    rng, held_out = np.random.default_rng(seed), np.zeros(len(index), dtype=bool)
    rows_of = list(index.rows_by_speaker().values())

    for place in rng.permutation(len(rows_of)):
        if held_out.sum() >= share * len(index):
            break
        held_out[rows_of[place]] = True

    if held_out.all():
        raise ConfigError(
            f"model.held_out speaker: all of the {len(rows_of)} speakers would be held out; with "
            "so few speakers give model.held_out=utterance"
        )
    return held_out

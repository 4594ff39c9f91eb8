"""Training on some of the test speakers' own utterances, as a speaker-dependent model does.

The personalization gap (papt-pldc, section 3) is the figure of a model that knows the test speakers
minus that of a model that does not, on the same utterances, which neither has heard. The first one
trains on some seconds of every test speaker (the paper's test-a) in place of as many training
speakers; both are evaluated on the rest (test-b). Training speakers are taken in one seeded order,
so that a smaller number of them is part of a larger one.
"""

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex

_KNOWN, _SPEAKERS = range(2)
# One division for all runs, whatever their seed: otherwise their figures could not be compared.
SEED = 0


def known_utterances(index: CorpusIndex, seconds: float) -> NDArray[np.bool_]:
    """Mark utterances [N] of a split that make up at least `seconds` of each of its speakers.

    Raises ConfigError when no utterance of a speaker would be left to measure on, or when the
    length of an utterance is not known.
    """
    if np.isnan(index.durations).any():
        raise ConfigError(
            "known_seconds: some json gives no `duration_seconds`; shards of `emostream pack` "
            "carry it"
        )

    known = np.zeros(len(index), dtype=bool)
    for place, (speaker, rows) in enumerate(index.rows_by_speaker().items()):
        order = _generator(_KNOWN, place).permutation(rows)
        heard = np.cumsum(index.durations[order])

        number = int(np.searchsorted(heard, seconds)) + 1
        if number >= len(rows):
            raise ConfigError(
                f"known_seconds: got {seconds:g}, but speaker {speaker!r} has {heard[-1]:.1f} s in "
                f"{len(rows)} utterances, and some have to be left to measure on"
            )

        known[order[:number]] = True

    return known


def training_utterances(
    corpus: CorpusIndex, num_speakers: int | None, known_seconds: float, known_split: str
) -> CorpusIndex:
    """The utterances to train on: the split `train`, or `num_speakers` of its speakers.

    With `known_seconds`, some utterances of each speaker of `known_split` replace as many training
    speakers. Raises ConfigError when there are fewer speakers than asked for.
    """
    train = corpus.split("train")
    if num_speakers is None and not known_seconds:
        return train

    groups = train.rows_by_speaker()
    wanted = len(groups) if num_speakers is None else num_speakers
    if wanted > len(groups):
        raise ConfigError(
            f"num_speakers: got {wanted}, but the split train has {len(groups)} speakers"
        )

    others = corpus.split(known_split) if known_seconds else None
    replaced = 0 if others is None else len(others.speakers)
    if replaced >= wanted:
        raise ConfigError(
            f"num_speakers: got {wanted}, expected more than the {replaced} of {known_split}"
        )

    order = _generator(_SPEAKERS, 0).permutation(len(groups))
    names = np.asarray(list(groups), dtype=object)[order[: wanted - replaced]]
    chosen = train.take(np.sort(np.concatenate([groups[name] for name in names])))

    if others is None:
        return chosen
    return chosen.followed_by(others.take(np.flatnonzero(known_utterances(others, known_seconds))))


def _generator(purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(purpose, number)))

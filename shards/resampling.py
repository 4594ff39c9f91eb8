"""Confidence intervals over speakers, by resampling whole speakers (the cluster bootstrap).

The utterances of one speaker resemble each other, so an interval from resampling utterances would
be too narrow. Every figure is computed from counts or sums that add up over speakers: a resample is
a weighted sum of the speakers' counts, so a million utterances cost no more than their speakers do,
and one set of resamples serves all figures, whose differences are then paired.

More than `MAX_GROUPS` speakers are pooled at random into that many groups, which bounds the memory.
Groups of independent speakers are independent too.

Shapes: M utterances, G groups of speakers, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_GROUPS = 4000


class SpeakerResamples:
    """Resamples of the speakers of M utterances, at least one.

    `speaker` [M] holds the numbers of the speakers, and -1 for an utterance without a speaker,
    which is resampled on its own. `group` [M] is the group of each utterance.
    """

    def __init__(self, speaker: NDArray[np.int64], seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.group, self.num_groups = _grouped(speaker, generator)

        # G draws with replacement from G groups are all that a resample is, and a multinomial draw
        # says how often each group was drawn.
        chances = np.full(self.num_groups, 1 / self.num_groups)
        self._weights_RG = generator.multinomial(self.num_groups, chances, NUM_RESAMPLES).astype(
            np.float64
        )

    def totals(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sums [R, ...] of each resample, from the sums [G, ...] of each group."""
        return np.tensordot(self._weights_RG, counts, axes=1)

    def interval(self, resampled: NDArray[np.float64]) -> tuple[float, float]:
        """The ends of the percentile interval of a figure's values in the resamples [R].

        They are NaN when there is only one speaker, because one speaker shows nothing of how others
        differ. Resamples in which the figure is NaN are left out.
        """
        usable = resampled[~np.isnan(resampled)]
        tail = (1 - CONFIDENCE) / 2
        known = self.num_groups > 1 and len(usable) > 0
        low, high = np.quantile(usable, [tail, 1 - tail]) if known else (np.nan, np.nan)

        return float(low), float(high)


def _grouped(
    speaker: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """The group of each utterance, and the number of groups."""
    # An utterance without a speaker becomes a cluster of its own. The running count of such
    # utterances starts at 1, so the new numbers begin right behind the largest speaker number.
    alone = speaker < 0
    clusters = np.where(alone, speaker.max(initial=-1) + np.cumsum(alone), speaker)

    # Speakers without a known truth have no utterances here: the numbers are made gapless.
    _, group = np.unique(clusters, return_inverse=True)
    num_clusters = int(group.max()) + 1
    if num_clusters <= MAX_GROUPS:
        return group, num_clusters

    # A permutation modulo the number of groups deals the clusters out evenly.
    pooled = generator.permutation(num_clusters) % MAX_GROUPS
    return pooled[group], MAX_GROUPS

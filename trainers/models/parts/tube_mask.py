"""Draws which parts of a clip are hidden from an encoder that is to reconstruct them.

VideoMAE hides tubes: a place is hidden in all pictures or in none. Otherwise a hidden part could be
copied from the picture before, since little moves from one picture to the next.

Shapes: N clips, I instants (pairs of pictures), P places of a picture, T = I * P patches.
"""

import numpy as np
from numpy.typing import NDArray


def tube_mask(
    num_clips: int,
    num_instants: int,
    num_places: int,
    *,
    ratio: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw a mask [N, T] that is true where a patch is hidden, instant after instant.

    Each clip hides the same number of places, `ratio` of them rounded down, but at least one, and
    not all.
    """
    number = min(max(1, int(ratio * num_places)), num_places - 1)

    # The places with the smallest of random numbers are a random choice of so many.
    ranks_NP = rng.random((num_clips, num_places)).argsort(axis=1).argsort(axis=1)
    return np.tile(ranks_NP < number, (1, num_instants))

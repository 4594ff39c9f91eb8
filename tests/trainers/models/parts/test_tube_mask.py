"""Tubes hide the same places of all pictures, equally many in every clip."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.models.parts.tube_mask import tube_mask


@given(st.integers(1, 6), st.integers(1, 8), st.integers(2, 50), st.floats(0.01, 0.99))
def test_tubes_have_an_exact_number_of_places(
    num_clips: int, num_instants: int, num_places: int, ratio: float
) -> None:
    """Each clip hides `ratio` of the places, in all pictures, and never none or all."""
    rng = np.random.default_rng(0)
    mask = tube_mask(num_clips, num_instants, num_places, ratio=ratio, rng=rng)
    assert mask.shape == (num_clips, num_instants * num_places)
    places = mask.reshape(num_clips, num_instants, num_places)
    assert (places == places[:, :1]).all()
    expected = min(max(1, int(ratio * num_places)), num_places - 1)
    assert (places[:, 0].sum(axis=1) == expected).all()


def test_every_place_is_hidden_as_often() -> None:
    """Of 4,000 clips that hide 3 of 10 places, each place is hidden in about 1,200."""
    mask = tube_mask(4000, 1, 10, ratio=0.3, rng=np.random.default_rng(1))
    np.testing.assert_allclose(mask.sum(axis=0), 1200, atol=120)

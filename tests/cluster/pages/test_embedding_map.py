"""Where embeddings lie on the plane, and what their colors mean."""

import numpy as np

from cluster.pages.embedding_map import UNKNOWN, color, place_embeddings, shared_value


def test_neighbors_in_space_are_neighbors_on_the_plane() -> None:
    """Three groups that lie far apart stay apart, and the same seed gives the same places."""
    rng = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    vectors = (20.0 * np.eye(3, 8)[kinds] + rng.standard_normal((60, 8))).astype(np.float32)
    rows = [np.asarray([number]) for number in range(60)]

    places = place_embeddings(vectors, rows, seed=1)
    assert places is not None

    distances = np.linalg.norm(places.points[:, None] - places.points[None], axis=-1) + np.diag(
        np.full(60, np.inf)
    )
    assert (kinds[distances.argmin(axis=1)] == kinds).all()

    again = place_embeddings(vectors, rows, seed=1)
    assert again is not None
    assert (again.points == places.points).all()


def test_few_points_are_not_placed_and_many_are_sampled() -> None:
    """Under 8 points are not placed; of 2,100 points, a seeded 2,000 are, each with its rows."""
    rng = np.random.default_rng(0)
    assert (
        place_embeddings(rng.standard_normal((7, 4)).astype(np.float32), [np.arange(1)] * 7, seed=0)
        is None
    )

    vectors = rng.standard_normal((2100, 2)).astype(np.float32)
    places = place_embeddings(vectors, [np.asarray([number]) for number in range(2100)], seed=0)
    assert places is not None
    assert len(places.points) == len({int(rows[0]) for rows in places.rows}) == 2000


def test_names_have_a_color_each() -> None:
    """The most frequent name comes first; unknown values are muted and last in the legend."""
    found = color(["b", "a", "b", None])
    assert [name for _, name in found.legend] == ["b", "a", UNKNOWN]
    assert found.colors[0] == found.colors[2] != found.colors[1]
    assert (found.colors[3], found.texts[3]) == ("var(--muted)", UNKNOWN)


def test_few_numbers_are_names_in_their_order() -> None:
    """A few numbers have a color each, in the order of the numbers, not of their frequency."""
    assert [name for _, name in color(["10", "2", "10"]).legend] == ["2", "10"]


def test_many_numbers_are_colored_by_fifths() -> None:
    """Many numbers are colored by fifths, from cold to warm."""
    found = color([str(number) for number in range(100)])
    assert found.colors == [f"var(--scale-{number // 20})" for number in range(100)]
    assert next(name for _, name in found.legend) == "0 to 19.8"


def test_many_names_have_no_legend() -> None:
    """Eleven names get eleven colors and no legend."""
    found = color([f"speaker {number}" for number in range(11)])
    assert len(set(found.colors)) == 11
    assert found.legend == []


def test_a_set_has_the_value_its_utterances_share() -> None:
    """The value of a set is the shared one, the mean of numbers, or `mixed`."""
    assert shared_value(["a", None, "a"]) == "a"
    assert shared_value(["1", "2"]) == "1.5"
    assert shared_value(["a", "b"]) == "mixed"
    assert shared_value([None]) is None

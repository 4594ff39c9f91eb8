"""Speaker tables from utterances have the means and spreads that numpy gives.

It does not matter how the utterances are cut into chunks.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.speakers.statistics import FIRST_ROOM, Chunk, build_speakers


def utterances(number: int, seed: int = 0) -> Chunk:
    """Utterances of up to five speakers; their ratings are about 5, and every fourth is unknown."""
    rng = np.random.default_rng(seed)
    speakers = np.asarray([f"s{place}" for place in rng.integers(0, 5, number)], dtype=object)
    labels = 5 + 1e-3 * rng.standard_normal((number, 2))
    labels[::4, 0] = np.nan
    return speakers, rng.standard_normal((number, 3)).astype(np.float32), labels


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20))
def test_statistics_are_numpys(number: int, step: int) -> None:
    """Each speaker's means, spreads and counts are those of numpy, for chunks of any size."""
    speakers, features, labels = utterances(number)
    cuts = range(0, number, step)

    table = build_speakers(
        lambda: [
            (speakers[i : i + step], features[i : i + step], labels[i : i + step]) for i in cuts
        ],
        ["a", "b"],
    )

    assert list(table.speakers) == sorted(set(speakers))
    for row, speaker in enumerate(table.speakers):
        mine = speakers == speaker
        np.testing.assert_allclose(
            table.vectors[row], features[mine].mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-7
        )

        assert table.num_utterances[row] == mine.sum()

        for place in range(2):
            known = labels[mine, place][np.isfinite(labels[mine, place])]
            assert table.label_count[row, place] == len(known)
            if len(known):
                np.testing.assert_allclose(table.label_mean[row, place], known.mean(), rtol=1e-12)
                np.testing.assert_allclose(
                    table.label_std[row, place], known.std(), rtol=1e-6, atol=1e-12
                )
            else:
                assert np.isnan([table.label_mean[row, place], table.label_std[row, place]]).all()


def test_the_order_of_chunks_is_all_that_counts() -> None:
    """The same chunks give the same bits, and no chunks an empty table."""
    parts = [utterances(20, seed) for seed in range(3)]
    once, again = (build_speakers(lambda: parts, ["a", "b"]) for _ in range(2))
    assert once.vectors.tobytes() == again.vectors.tobytes()
    assert once.label_std.tobytes() == again.label_std.tobytes()
    assert len(build_speakers(list, ["a"]).speakers) == 0


def test_there_is_room_for_every_speaker() -> None:
    """Each speaker keeps their own vector when there is one more than has room at first.

    A chunk ends exactly where the first room does.
    """
    names = np.asarray([f"s{place:05d}" for place in range(FIRST_ROOM + 1)], dtype=object)
    features = np.arange(len(names), dtype=np.float32)[:, None]
    chunks = [
        (names[i : i + 1024], features[i : i + 1024], features[i : i + 1024])
        for i in range(0, len(names), 1024)
    ]
    table = build_speakers(lambda: chunks, ["a"])
    np.testing.assert_array_equal(table.vectors, features)
    np.testing.assert_array_equal(table.label_mean, features)

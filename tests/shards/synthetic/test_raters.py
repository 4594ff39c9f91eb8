"""Raters add up the evidence of what they are given; their votes resemble those of CREMA-D."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.synthetic.config import Channel, WorldConfig, acted_world
from shards.synthetic.corpus import World, iterate_samples
from shards.synthetic.raters import RaterConfig, draw_votes, vote_probabilities
from tests.worlds.votes import CREMA_D, FIGURES, NUM_FOLDS, STIMULI, figures_of, votes_of

NO_NOISE = np.zeros(NUM_EMOTIONS)
SHOWN = {"voice": EMOTIONS.index("anger"), "face": EMOTIONS.index("sadness"), "words": 4}
# With a likeness next to nothing, an emotion is like itself alone.
SHARP = RaterConfig(
    voice_legibility=1.0,
    face_legibility=2.0,
    likeness=1e-3,
    noise=0.0,
    neutral=0.5,
    neutral_unseen=0.25,
)


def test_probabilities_are_the_softmax_of_evidence_times_legibility() -> None:
    """By hand, for an angry voice and a sad face at intensity 2: order n, a, d, f, h, s, s."""
    probabilities = vote_probabilities(SHARP, SHOWN, intensity=2.0, noise=NO_NOISE)

    by_hand = {
        "voice": [0.75, 2.0, 0, 0, 0, 0, 0],
        "face": [0.5, 0, 0, 0, 0, 4.0, 0],
        "audiovisual": [0.5, 2.0, 0, 0, 0, 4.0, 0],
    }
    for stimulus, log_odds in by_hand.items():
        np.testing.assert_allclose(probabilities[stimulus], softmax(log_odds), rtol=1e-12)


def test_words_are_heard_where_raters_heed_them() -> None:
    """Happy words reach those who hear, and not those who only see."""
    heeding = replace(SHARP, words_legibility=1.5)
    probabilities = vote_probabilities(heeding, SHOWN, intensity=2.0, noise=NO_NOISE)

    by_hand = {
        "voice": [0.75, 2.0, 0, 0, 3.0, 0, 0],
        "face": [0.5, 0, 0, 0, 0, 4.0, 0],
        "audiovisual": [0.5, 2.0, 0, 0, 3.0, 4.0, 0],
    }
    for stimulus, log_odds in by_hand.items():
        np.testing.assert_allclose(probabilities[stimulus], softmax(log_odds), rtol=1e-12)


def test_an_emotion_is_some_evidence_for_those_like_it() -> None:
    """Anger (.6, -.6) lies .1 from fear (.6, -.5) and 1.0 from neutral (-.2, 0)."""
    config = replace(SHARP, likeness=0.5, neutral=0.0)
    angry = dict.fromkeys(SHOWN, EMOTIONS.index("anger"))
    found = np.log(vote_probabilities(config, angry, intensity=1.0, noise=NO_NOISE)["face"])
    anger, fear, neutral = (found[EMOTIONS.index(one)] for one in ("anger", "fear", "neutral"))

    assert anger - fear == pytest.approx(2.0 - 2.0 * np.exp(-(0.1**2) / 0.25))
    assert anger - neutral == pytest.approx(2.0 - 2.0 * np.exp(-(0.8**2 + 0.6**2) / 0.25))


@settings(max_examples=25, deadline=None)
@given(
    noise=st.lists(st.floats(-4, 4), min_size=NUM_EMOTIONS, max_size=NUM_EMOTIONS),
    legibility=st.floats(0, 3),
    voice=st.integers(0, NUM_EMOTIONS - 1),
    face=st.integers(0, NUM_EMOTIONS - 1),
)
def test_who_hears_and_sees_has_the_evidence_of_both(
    noise: list[float], legibility: float, voice: int, face: int
) -> None:
    """Log-odds of both are those of voice and of face together, less what the two share."""
    config = RaterConfig(neutral=0.0, neutral_unseen=0.0)
    shown = {"voice": voice, "face": face, "words": 0}
    drawn = np.array(noise)
    found = {
        name: np.log(chances)
        for name, chances in vote_probabilities(
            config, shown, intensity=1.2, noise=drawn, legibility=legibility
        ).items()
    }

    np.testing.assert_allclose(
        log_softmax(found["voice"] + found["face"] - config.noise * drawn),
        found["audiovisual"],
        atol=1e-9,
    )


def test_votes_are_drawn_from_the_probabilities() -> None:
    """Of 20,000 votes each answer has its share, within five standard deviations."""
    config = replace(SHARP, num_raters=20_000)
    probabilities = vote_probabilities(config, SHOWN, intensity=1.0, noise=NO_NOISE)
    votes = draw_votes(config, probabilities, np.random.default_rng(3))

    for stimulus, counts in votes.items():
        expected = 20_000 * probabilities[stimulus]
        deviation = np.sqrt(expected * (1 - probabilities[stimulus]))
        assert tuple(counts) == EMOTIONS
        assert sum(counts.values()) == 20_000
        assert (np.abs(np.array(list(counts.values())) - expected) < 5 * deviation).all()


def test_the_ratings_of_a_sample_are_votes_of_its_own_distribution() -> None:
    """Over a corpus, votes less what the world says of each utterance come to nothing."""
    world = World(replace(WorldConfig(seed=3), raters=RaterConfig(num_raters=50)))
    differences, variances = [], []

    for index in range(12):
        person = world.speaker(index)
        for utterance in range(person.num_utterances):
            chances = world.vote_probabilities(person, utterance)
            for stimulus, counts in world.ratings(person, utterance).items():
                differences.append(np.array(list(counts.values())) - 50 * chances[stimulus])
                variances.append(50 * chances[stimulus] * (1 - chances[stimulus]))

    # Squares over variances average 1: what is drawn has this distribution, not only this mean.
    ratio = np.sum(np.square(differences), axis=0) / np.sum(variances, axis=0)
    assert np.abs(ratio - 1).max() < 0.2
    assert (np.abs(np.sum(differences, axis=0)) < 5 * np.sqrt(np.sum(variances, axis=0))).all()


def test_a_sample_carries_the_ratings_of_its_world() -> None:
    """The json has the votes that `ratings` gives, ten for each stimulus."""
    world = World(WorldConfig(seed=5, mean_utterances=4.0, min_utterances=3))
    for sample in iterate_samples(world, [0, 1]):
        index, utterance = int(sample.key[8:13]), int(sample.key[14:])
        ratings = world.ratings(world.speaker(index), utterance)

        assert sample.metadata["ratings"] == ratings
        assert [sum(counts.values()) for counts in ratings.values()] == [10, 10, 10]


def test_other_raters_change_nothing_but_the_ratings() -> None:
    """Sound, face, words and the rest of the json are as they were, to the byte."""
    config = WorldConfig(seed=5, mean_utterances=4.0, min_utterances=3)
    former = iterate_samples(World(config), range(2))
    other = iterate_samples(World(replace(config, raters=SHARP)), range(2))

    votes = []
    for one, two in zip(former, other, strict=True):
        assert (one.audio, one.transcript) == (two.audio, two.transcript)
        np.testing.assert_array_equal(one.face_features, two.face_features)
        votes.append(one.metadata.pop("ratings") == two.metadata.pop("ratings"))
        assert one.metadata == two.metadata
    assert not all(votes)


def test_where_all_raters_perceive_everything_their_votes_are_equal() -> None:
    """The null of two stages: ratings of voice and face are those of the whole, vote by vote."""
    raters = RaterConfig(perceive="everything")
    world = World(WorldConfig(seed=1, raters=raters))
    apart = World(WorldConfig(seed=1))
    person = world.speaker(0)

    for utterance in range(20):
        ratings = world.ratings(person, utterance)
        assert ratings["voice"] == ratings["face"] == ratings["audiovisual"]
        np.testing.assert_array_equal(
            world.vote_probabilities(person, utterance)["voice"],
            apart.vote_probabilities(person, utterance)["audiovisual"],
        )


def test_who_hears_and_sees_recognizes_most_and_who_only_hears_least() -> None:
    """Without conflicts, the most voted emotion is the felt one more often with more evidence."""
    world = World(
        replace(
            acted_world(seed=2),
            voice=Channel(conflict_rate=0.0),
            face=Channel(conflict_rate=0.0),
        )
    )
    votes, speakers = votes_of(world, 30)
    felt = [
        world.truth(world.speaker(index), utterance).emotion
        for index in range(30)
        for utterance in range(world.speaker(index).num_utterances)
    ]

    right = {name: float((votes[name].argmax(axis=1) == felt).mean()) for name in STIMULI}
    assert len(felt) == len(speakers)
    assert right["voice"] + 0.1 < right["face"] < right["audiovisual"] - 0.02


@pytest.mark.parametrize(
    ("config", "tolerances"),
    [
        # several labels, neutral's share, macro-F1: each for voice, face and both
        (acted_world(seed=11), (0.05, 0.11, 0.06, 0.06, 0.05, 0.08, 0.07, 0.05, 0.05)),
        (WorldConfig(seed=11), (0.05, 0.10, 0.12, 0.07, 0.06, 0.11, 0.11, 0.10, 0.09)),
    ],
    ids=["acted", "default"],
)
def test_votes_resemble_those_of_crema_d(
    config: WorldConfig, tolerances: tuple[float, ...]
) -> None:
    """Shares and scores are those of CREMA-D's 22,326 rows, as near as they were fitted."""
    votes, speakers = votes_of(World(config), 60)
    found = figures_of(votes, speakers % NUM_FOLDS)

    for name, seen, expected, tolerance in zip(FIGURES, found, CREMA_D, tolerances, strict=True):
        assert seen == pytest.approx(expected, abs=tolerance), name

    # Nobody is less certain for having more to go by, as CREMA-D's raters are not.
    assert found[0] > found[1] > found[2]


def test_raters_answer_with_what_they_may_name() -> None:
    """In the acted world six emotions are felt, shown and named; surprise is in none of them."""
    world = World(acted_world(seed=4))
    person = world.speaker(3)

    for utterance in range(30):
        truth = world.truth(person, utterance)
        assert EMOTIONS.index("surprise") not in {truth.emotion, *truth.shown.values()}
        for counts in world.ratings(person, utterance).values():
            assert set(counts) == set(EMOTIONS) - {"surprise"}


def test_the_acted_world_survives_a_round_trip_through_plain_values() -> None:
    """Raters can be described in YAML, answers included."""
    assert from_mapping(WorldConfig, to_mapping(acted_world(seed=4))) == acted_world(seed=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_raters": 0}, "num_raters"),
        ({"noise": -0.1}, "noise"),
        ({"voice_legibility": -1.0}, "voice_legibility"),
        ({"likeness": 0.0}, "likeness"),
        ({"answers": ()}, "got none"),
        ({"answers": ("anger",)}, "at least two"),
        ({"answers": ("anger", "anger")}, "different"),
        ({"answers": ("anger", "boredom")}, "boredom"),
    ],
)
def test_raters_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    """The error names the option."""
    with pytest.raises(ConfigError, match=message):
        replace(RaterConfig(), **changes)  # type: ignore[arg-type]

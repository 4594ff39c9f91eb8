"""Speakers are dealt into groups of known sizes, and only configured shifts set groups apart."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import entropy

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.samples.sample import encode_sample, parse_sample
from shards.synthetic.config import WorldConfig, acted_world, null_world
from shards.synthetic.corpus import World, iterate_samples
from shards.synthetic.demographics import DemographicsConfig, Subgroup, deal_demographics
from shards.synthetic.people import Person
from tests.worlds.votes import macro_f1

FAIR = DemographicsConfig()


@pytest.mark.parametrize(("start", "number"), [(0, 100), (37, 40), (5000, 91)])
def test_any_run_of_speakers_has_the_groups_in_their_shares(start: int, number: int) -> None:
    """Of 40 speakers 3 are from the group of 8 %; of 91, one or two from that of 1 %."""
    dealt = [deal_demographics(FAIR, 3, index) for index in range(start, start + number)]

    for groups, names in (
        (FAIR.sex, Counter(one.sex.name for one in dealt)),
        (FAIR.background, Counter(one.background.name for one in dealt)),
    ):
        for group in groups:
            assert abs(names[group.name] - group.share * number) < 2.5


def test_fields_are_dealt_independently_of_each_other() -> None:
    """Women of the south are as many as the shares of both tell, within two in a thousand."""
    dealt = [deal_demographics(FAIR, 0, index) for index in range(4000)]
    cells = Counter((one.sex.name, one.background.name, one.age < 38) for one in dealt)
    young = sum(one.age < 38 for one in dealt) / len(dealt)

    for sex, background in itertools.product(FAIR.sex, FAIR.background):
        expected = sex.share * background.share * young
        seen = cells[sex.name, background.name, True] / len(dealt)
        assert seen == pytest.approx(expected, abs=0.002)


def test_ages_are_those_of_a_square_of_an_even_spread() -> None:
    """Between 20 and 74, below 30 in sqrt(10 / 55) of the speakers; none is out of range."""
    ages = np.array([deal_demographics(FAIR, 1, index).age for index in range(2000)])

    assert (ages.min(), ages.max()) == (20, 74)
    for age in (30, 40, 60):
        assert (ages < age).mean() == pytest.approx(np.sqrt((age - 20) / 55), abs=0.005)


def test_groups_that_do_not_differ_change_nothing_that_is_shown() -> None:
    """Where the sex cannot be heard, all bytes but the json's demographics are as they were."""
    config = replace(null_world(seed=5), mean_utterances=4.0, min_utterances=3)
    before = list(iterate_samples(World(config), range(3)))
    after = list(iterate_samples(World(replace(config, demographics=FAIR)), range(3)))

    for one, other in zip(before, after, strict=True):
        demographics = other.metadata["demographics"]
        assert isinstance(demographics, dict)
        assert set(demographics) == {"voice_type", "sex", "age", "background"}

        same = replace(
            other, metadata={**other.metadata, "demographics": one.metadata["demographics"]}
        )
        assert encode_sample(one) == encode_sample(same)


def test_samples_with_demographics_pass_the_checks_of_foreign_ones() -> None:
    """What a shard's reader parses is what was written."""
    config = replace(acted_world(seed=2), mean_utterances=3.0, min_utterances=2, demographics=FAIR)
    for sample in iterate_samples(World(config), [0]):
        members = encode_sample(sample)
        assert parse_sample(sample.key, members).metadata == sample.metadata


@pytest.mark.parametrize("num_groups", [2, 3, 6])
def test_the_sex_is_heard_where_each_has_a_voice_type(num_groups: int) -> None:
    """Men speak with the low voices and women with the high ones, in the groups there are."""
    world = World(replace(WorldConfig(seed=3), num_groups=num_groups, demographics=FAIR))
    speakers = [world.speaker(index) for index in range(60)]

    for speaker in speakers:
        assert speaker.demographics is not None
        assert (speaker.demographics.sex.name == "female") == (speaker.voice_type == 1)
        assert (speaker.voice.f0_center_hz > 155) == (speaker.voice_type == 1)
    assert {speaker.group for speaker in speakers} == set(range(num_groups))


def test_a_prior_shift_changes_how_often_a_group_feels_an_emotion() -> None:
    """By hand: log-odds of anger are 1.5 higher, those of the other group as in the world."""
    shifts = [0.0] * NUM_EMOTIONS
    shifts[EMOTIONS.index("anger")] = 1.5
    config = replace(null_world(seed=4), demographics=_two_backgrounds(prior=tuple(shifts)))
    odds = np.exp(shifts)

    for index in range(6):
        speaker = World(config).speaker(index)
        expected = odds / odds.sum() if _is_other(speaker) else np.full(NUM_EMOTIONS, 1 / 7)
        np.testing.assert_allclose(speaker.emotion_prior, expected)


def test_a_group_that_is_hard_to_read_gets_votes_that_agree_less() -> None:
    """Its votes are spread wider, and what is shown tells its labels worse; its sound is equal."""
    fair = _world(_two_backgrounds())
    unfair = _world(_two_backgrounds(legibility=0.5))

    (fair_one, fair_other), (one, other) = _agreement(fair), _agreement(unfair)
    assert abs(fair_one[0] - fair_other[0]) < 0.05
    assert abs(fair_one[1] - fair_other[1]) < 0.05
    assert one == fair_one
    assert other[0] > one[0] + 0.2
    assert other[1] < one[1] - 0.1

    person = fair.speaker(1)
    assert fair.truth(person, 0) == unfair.truth(unfair.speaker(1), 0)


def test_a_prior_shift_is_a_disparity_of_the_size_that_priors_tell() -> None:
    """Groups differ in how often anger is felt by as much as their priors, and else not at all."""
    shifts = tuple(1.5 if emotion == "anger" else 0.0 for emotion in EMOTIONS)
    expected = np.exp(1.5) / (np.exp(1.5) + 6) - 1 / 7

    for demographics, disparity in (
        (_two_backgrounds(), 0.0),
        (_two_backgrounds(prior=shifts), expected),
    ):
        world = World(replace(null_world(seed=8), demographics=demographics))
        speakers = [world.speaker(index) for index in range(60)]
        rates = [
            np.mean(
                [
                    world.truth(speaker, utterance).emotion == EMOTIONS.index("anger")
                    for speaker in speakers
                    if _is_other(speaker) == other
                    for utterance in range(60)
                ]
            )
            for other in (False, True)
        ]
        assert rates[1] - rates[0] == pytest.approx(disparity, abs=0.04)


def test_the_old_are_harder_to_read_by_the_decade() -> None:
    """With a factor of .9 a decade, ten years cost a tenth."""
    config = replace(FAIR, legibility_by_decade=0.9)
    for index in range(20):
        dealt = deal_demographics(config, 0, index)
        assert dealt.legibility == pytest.approx(0.9 ** ((dealt.age - 20) / 10))
        assert deal_demographics(FAIR, 0, index).legibility == 1.0


def test_demographics_survive_a_round_trip_through_plain_values() -> None:
    """Groups can be described in YAML."""
    config = WorldConfig(demographics=_two_backgrounds(legibility=0.7))
    assert from_mapping(WorldConfig, to_mapping(config)) == config


def test_groups_that_cannot_be_are_refused() -> None:
    """The error names the option."""
    twice = Subgroup(name="north", share=0.5)

    with pytest.raises(ConfigError, match="share"):
        Subgroup(name="north", share=0.0)
    with pytest.raises(ConfigError, match="legibility"):
        Subgroup(name="north", share=1.0, legibility=-1.0)
    with pytest.raises(ConfigError, match="prior: got 2 numbers"):
        Subgroup(name="north", share=1.0, prior=(0.0, 1.0))
    with pytest.raises(ConfigError, match="sex: got no groups"):
        DemographicsConfig(sex=())
    with pytest.raises(ConfigError, match="names that differ"):
        DemographicsConfig(background=(twice, twice))
    with pytest.raises(ConfigError, match="max_age"):
        DemographicsConfig(min_age=30, max_age=29)


def _two_backgrounds(
    *, legibility: float = 1.0, prior: tuple[float, ...] = ()
) -> DemographicsConfig:
    return DemographicsConfig(
        background=(
            Subgroup(name="one", share=0.5),
            Subgroup(name="other", share=0.5, legibility=legibility, prior=prior),
        )
    )


def _is_other(speaker: Person) -> bool:
    assert speaker.demographics is not None
    return speaker.demographics.background.name == "other"


def _world(demographics: DemographicsConfig) -> World:
    return World(replace(acted_world(seed=6), demographics=demographics))


def _agreement(world: World) -> list[tuple[float, float]]:
    """Of each background: entropy of audio-visual votes, and macro-F1 of what the face shows."""
    votes: dict[bool, list[list[int]]] = {False: [], True: []}
    shown: dict[bool, list[NDArray[np.bool_]]] = {False: [], True: []}

    for index in range(50):
        speaker = world.speaker(index)
        for utterance in range(speaker.num_utterances):
            counts = world.ratings(speaker, utterance)["audiovisual"]
            votes[_is_other(speaker)].append(list(counts.values()))
            face = world.truth(speaker, utterance).shown_by_face
            shown[_is_other(speaker)].append(np.arange(len(counts)) == face)

    return [
        (
            float(entropy(np.array(votes[other]), axis=1).mean()),
            macro_f1(np.array(votes[other]) * len(counts) > 10, np.array(shown[other])),
        )
        for other in (False, True)
    ]

"""In dialogues, emotions last and spread as often as configured, whatever is asked for first."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from shards.config import ConfigError
from shards.synthetic.config import WorldConfig, null_world
from shards.synthetic.corpus import World, iterate_samples
from shards.synthetic.dialogues import MAX_TURN_UTTERANCES, DialogueConfig, Place

NUM_UTTERANCES = 3000


def test_a_dialogue_without_persistence_and_contagion_is_only_an_order() -> None:
    """Sound, face and words are those of the world without dialogues, to the byte."""
    config = WorldConfig(seed=5, mean_utterances=4.0, min_utterances=3)
    apart = list(iterate_samples(World(config), range(3)))
    talking = list(iterate_samples(World(replace(config, dialogue=DialogueConfig())), range(3)))

    assert [sample.audio for sample in apart] == [sample.audio for sample in talking]
    assert [sample.transcript for sample in apart] == [sample.transcript for sample in talking]
    assert all({"dialogue", "turn"} <= sample.metadata.keys() for sample in talking)
    assert not any("turn" in sample.metadata for sample in apart)


def test_turns_alternate_and_are_short() -> None:
    """The first speaker has the even turns, the second the odd ones, of one to three utterances."""
    for side in (0, 1):
        turns = [place.turn for place in _places(DialogueConfig(), side)[:-MAX_TURN_UTTERANCES]]
        lengths = [len(list(group)) for _, group in itertools.groupby(turns)]

        assert sorted(set(turns)) == list(range(side, max(turns) + 1, 2))
        assert set(lengths) == set(range(1, MAX_TURN_UTTERANCES + 1))


def test_emotions_last_as_often_as_configured() -> None:
    """Of seven equally frequent emotions, p + (1 - p) / 7 of the utterances repeat the last one."""
    felt = [place.emotion for place in _places(DialogueConfig(persistence=0.6), 0)]
    repeated = np.mean([one == other for one, other in itertools.pairwise(felt)])

    expected = 0.6 + 0.4 / 7
    assert abs(repeated - expected) < 4 * np.sqrt(expected * (1 - expected) / NUM_UTTERANCES)


def test_emotions_spread_as_often_as_configured() -> None:
    """An utterance shares the emotion of the other speaker's last one with c + (1 - c) / 7."""
    mine, other = (_places(DialogueConfig(contagion=0.5), side) for side in (0, 1))
    last = {place.turn: place.emotion for place in other}
    shared = [place.emotion == last[place.turn - 1] for place in mine if place.turn - 1 in last]

    expected = 0.5 + 0.5 / 7
    assert abs(np.mean(shared) - expected) < 4 * np.sqrt(expected * (1 - expected) / NUM_UTTERANCES)


def test_a_place_does_not_depend_on_what_was_asked_for_before() -> None:
    """Shards that are made anywhere, in any order, agree."""
    config = replace(null_world(seed=3), dialogue=DialogueConfig(persistence=0.4, contagion=0.4))
    forward, backward = World(config), World(config)

    wanted = [(speaker, utterance) for speaker in range(4) for utterance in range(20)]
    one = {key: forward.place(forward.speaker(key[0]), key[1]) for key in wanted}
    two = {key: backward.place(backward.speaker(key[0]), key[1]) for key in reversed(wanted)}

    assert one == two


@pytest.mark.parametrize(
    "shares", [{"persistence": -0.1}, {"persistence": 0.6, "contagion": 0.5}, {"contagion": 1.1}]
)
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    """The error names both options, as their sum counts."""
    with pytest.raises(ConfigError, match="persistence, contagion"):
        DialogueConfig(**shares)


def _places(dialogue: DialogueConfig, speaker: int) -> list[Place]:
    """The places of many utterances of one speaker of a null world, where priors are even."""
    world = World(replace(null_world(seed=1), dialogue=dialogue))
    person = world.speaker(speaker)
    places = [world.place(person, utterance) for utterance in range(NUM_UTTERANCES)]

    return [place for place in places if place is not None]

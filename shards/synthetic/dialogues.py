"""Dialogues of the synthetic world: two speakers in turns, whose emotions last and spread.

Speakers 0 and 1 talk to each other, then 2 and 3, and so on. A turn has one to three utterances of
one speaker. Where an emotion lasts (`persistence`), a speaker feels what the speaker felt last;
where it spreads (`contagion`), what the other one felt last; otherwise, whatever the speaker would
have felt alone. With both at 0 a dialogue is only an order, and knowing it helps nobody.

Both speakers go on talking as long as either has utterances: of the one who has fewer, the last
turns are not recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shards.config import ConfigError, option

MAX_TURN_UTTERANCES = 3
_DIALOGUE_STREAM = 4

Felt = Callable[[int, int], int]
"""The emotion that a speaker (number) would feel alone in an utterance (number)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueConfig:
    """How emotions go on in dialogues."""

    persistence: float = option(
        help="share of utterances in which a speaker feels what this speaker felt last", default=0.0
    )
    contagion: float = option(
        help="share of utterances in which a speaker feels what the other one felt last",
        default=0.0,
    )

    def __post_init__(self) -> None:
        shares = (self.persistence, self.contagion)
        if not (min(shares) >= 0.0 and sum(shares) <= 1.0):
            raise ConfigError(
                f"persistence, contagion: got {self.persistence}, {self.contagion}, expected "
                "shares from 0 that sum to at most 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an utterance stands in its dialogue, and which emotion is felt in it."""

    dialogue: int
    turn: int
    emotion: int


@dataclass(slots=True)
class Dialogue:
    """The dialogue of number `number`, from its beginning as far as anyone has asked for it."""

    seed: int
    number: int
    config: DialogueConfig
    felt_alone: Felt
    _places: tuple[list[Place], list[Place]] = field(default_factory=lambda: ([], []))
    _num_turns: int = 0
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        key = (_DIALOGUE_STREAM, self.number)
        self._rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def place(self, speaker: int, utterance: int) -> Place:
        """The place of an utterance of one of the two speakers; both are numbers from 0."""
        mine = self._places[speaker % 2]
        while len(mine) <= utterance:
            self._talk()

        return mine[utterance]

    def _talk(self) -> None:
        """Go on by one turn."""
        side = self._num_turns % 2
        mine, other = self._places[side], self._places[1 - side]

        for _ in range(self._rng.integers(1, MAX_TURN_UTTERANCES + 1)):
            chance, emotion = self._rng.random(), None
            if chance < self.config.persistence:
                emotion = mine[-1].emotion if mine else None
            elif chance < self.config.persistence + self.config.contagion:
                emotion = other[-1].emotion if other else None

            if emotion is None:
                emotion = self.felt_alone(2 * self.number + side, len(mine))
            mine.append(Place(dialogue=self.number, turn=self._num_turns, emotion=emotion))

        self._num_turns += 1

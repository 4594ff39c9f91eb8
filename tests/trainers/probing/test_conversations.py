"""A turn's emotion is predicted from the turns before it, in their order, and from nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import SCHEMA, CorpusIndex
from trainers.probing.config import TRAININGS, ProbeConfig
from trainers.probing.conversations import ConversationInputs
from trainers.probing.divisions import Division, kept_apart, make_divisions
from trainers.probing.loop import Fitted, fit

Said = tuple[str, str, object, object]
"""Key, speaker, dialogue and turn of an utterance."""


class Numbered:
    """Each utterance is one vector [1, 1, 1], its row in the corpus; some cannot be heard."""

    num_layers, is_scaled = 1, False

    def __init__(self, silent: Sequence[int] = ()) -> None:
        self._silent = silent

    def problem(self, row: int) -> str | None:
        return "no_audio: none" if row in self._silent else None

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        return np.full((1, 1, 1), row, dtype=np.float32)


def corpus_of(said: Sequence[Said]) -> CorpusIndex:
    rows = [
        {
            "key": key,
            "shard": "/corpus/a.tar",
            "offset": 512 * place,
            "size": 512,
            "speaker": speaker,
            "split": "train",
            "json": json.dumps({"dialogue": dialogue, "turn": turn}),
        }
        for place, (key, speaker, dialogue, turn) in enumerate(said)
    ]
    return CorpusIndex(pa.Table.from_pylist(rows, schema=SCHEMA))


def past(inputs: ConversationInputs, row: int) -> list[tuple[int, int, int]]:
    """The turn, the corpus row, and whether it is the speaker's own, of each utterance."""
    vectors = inputs.read(row)[:, 0].astype(int).tolist()
    return [
        (int(turn), vector[0], vector[1])
        for turn, vector in zip(inputs.turns(row), vectors, strict=True)
    ]


def test_turns_are_in_the_order_of_their_numbers() -> None:
    """Turn 10 follows turn 9, also as text, and utterance u10 follows u2, however they lie."""
    corpus = corpus_of(
        [
            ("u3", "ann", 7, "11"),
            ("u10", "bob", 7, "10"),
            ("u2", "bob", 7, 10),
            ("u1", "ann", 7, "9"),
            ("u1", "ann", "other", 8),
        ]
    )
    inputs = ConversationInputs(Numbered(), corpus, np.arange(5), 6)
    assert past(inputs, 0) == [(0, 3, 1), (1, 2, 0), (1, 1, 0)]
    assert past(inputs, 2) == [(0, 3, 0)]


def test_only_the_last_turns_that_can_be_heard_count() -> None:
    """Silent utterances and turns are passed over; unlabeled ones are heard as the past."""
    said: list[Said] = [("u0", "ann", 0, 0), ("u1", "bob", 0, 1), ("u2", "ann", 0, 2)]
    said += [("u3", "ann", 0, 2), ("u4", "bob", 0, 3)]
    inputs = ConversationInputs(Numbered([1, 3]), corpus_of(said), np.array([0, 4]), 2)
    assert past(inputs, 1) == [(0, 0, 0), (1, 2, 0)]
    assert inputs.num_short == 0

    short = ConversationInputs(Numbered([1, 3]), corpus_of(said), np.array([0, 4]), 3)
    assert (past(short, 1), short.num_short) == (past(inputs, 1), 1)


def test_what_is_not_predicted_has_a_reason() -> None:
    """A first turn, a later utterance of a turn, and one outside all dialogues."""
    said: list[Said] = [("u0", "ann", 0, 0), ("u1", "bob", 0, 1), ("u2", "bob", 0, 1)]
    said += [("u3", "ann", None, 3), ("u4", "ann", 0, "later"), ("u5", "ann", 0, "inf")]
    inputs = ConversationInputs(Numbered(), corpus_of(said), np.arange(6), 6)
    codes = [(inputs.problem(row) or "").partition(":")[0] for row in range(6)]
    assert codes == ["no_history", "", "later_in_turn", "no_turn", "no_turn", "no_turn"]


def test_a_corpus_without_dialogues_is_refused() -> None:
    """So is one whose turns are numbered for each speaker apart."""
    with pytest.raises(ConfigError, match="no utterance has both `dialogue` and `turn`"):
        ConversationInputs(Numbered(), corpus_of([("u0", "ann", None, 1)]), np.arange(1), 6)

    said: list[Said] = [("u0", "ann", "d", 1), ("u1", "bob", "d", 1)]
    with pytest.raises(ConfigError, match="turn 1 of dialogue d has the speakers ann, bob"):
        ConversationInputs(Numbered(), corpus_of(said), np.arange(2), 6)


class Telling(Numbered):
    """Vectors of noise around the class of each utterance."""

    def __init__(self, classes: NDArray[np.int64]) -> None:
        super().__init__()
        self._vectors = np.random.default_rng(1).normal(0, 0.3, (len(classes), 1, 1, 3))
        self._vectors[np.arange(len(classes)), 0, 0, classes] += 1.0

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        return self._vectors[row].astype(np.float32)


def predict_next(step: int | None) -> tuple[Fitted, NDArray[np.int64]]:
    """Fit on 60 dialogues of 6 turns: a turn's class is that of two turns before, and `step` on.

    With None it is drawn anew. Returns what was fitted, and the true classes.
    """
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (60, 6))
    for turn in range(2, 6) if step is not None else ():
        classes[:, turn] = (classes[:, turn - 2] + step) % 3  # type: ignore[operator]

    said: list[Said] = [
        (f"d{dialogue}-{turn}", f"s{2 * dialogue + turn % 2}", dialogue, turn)
        for dialogue in range(60)
        for turn in range(6)
    ]
    rows = np.arange(360)
    inputs = ConversationInputs(Telling(classes.ravel()), corpus_of(said), rows, 3)
    usable = rows[rows % 6 >= 2]
    division = Division(
        name="a",
        train=usable[usable < 180],
        validation=usable[(usable >= 180) & (usable < 240)],
        test=usable[usable >= 240],
    )
    training = replace(TRAININGS["gru"], num_epochs=5, batch_size=16, learning_rate=5e-3)
    return fit(inputs, classes.ravel(), 3, division, "gru", training, seed=0), classes.ravel()[
        division.test
    ]


def test_an_emotion_that_follows_from_the_past_is_predicted() -> None:
    """The class of two turns before, and one on: nearly all are right."""
    found, truth = predict_next(1)
    assert (found.probs_NC.argmax(axis=1) == truth).mean() > 0.95


def test_an_emotion_that_does_not_follow_is_at_chance() -> None:
    """Its own sound would tell it, and is not heard: a third of 80 is right, give or take."""
    found, truth = predict_next(None)
    assert abs((found.probs_NC.argmax(axis=1) == truth).mean() - 1 / 3) < 0.16


def dyads(num_pairs: int = 4) -> CorpusIndex:
    """Two speakers a pair, in two dialogues a pair of ten turns each."""
    return corpus_of(
        [
            (f"p{pair}-{dialogue}-{turn}", f"p{pair}{'ab'[turn % 2]}", f"{pair}/{dialogue}", turn)
            for pair in range(num_pairs)
            for dialogue in range(2)
            for turn in range(10)
        ]
    )


def test_no_dialogue_is_in_two_parts() -> None:
    """Each speaker is tested; the partner neither trains nor validates, nor do halves."""
    index = dyads()
    names = np.asarray(index.texts("dialogue"), dtype=str)
    divisions = make_divisions(index, "speaker", seed=0, select_on_test=False, dialogues=names)
    assert len(divisions) == 8
    for one in (kept_apart(division, names) for division in divisions):
        parts = [set(names[part]) for part in (one.train, one.validation, one.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        # Ten of the partner's and ten of the validating speaker's partner are left out.
        assert (len(one.test), len(one.validation), len(one.train)) == (10, 10, 40)
        assert one.num_apart == 20


def test_where_the_tested_validate_they_stay() -> None:
    """With --select-on test, dialogues leave the training part alone."""
    index = dyads()
    names = np.asarray(index.texts("dialogue"), dtype=str)
    (one, *_) = make_divisions(index, "speaker", seed=0, select_on_test=True, dialogues=names)
    found = kept_apart(one, names)
    np.testing.assert_array_equal(found.validation, found.test)
    assert (len(found.train), found.num_apart) == (60, 10)


def test_folds_that_cut_dialogues_are_refused() -> None:
    """Random utterances by name, and any others that leave nothing to train on."""
    index = dyads()
    names = np.asarray(index.texts("dialogue"), dtype=str)
    with pytest.raises(ConfigError, match="--folds random:10: deals out single utterances"):
        make_divisions(index, "random:10", seed=0, select_on_test=False, dialogues=names)

    cut = Division(name="x", train=np.arange(5), validation=np.arange(20, 25), test=np.arange(5, 9))
    with pytest.raises(ConfigError, match="fold x has no dialogue of its own to train"):
        kept_apart(cut, names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "superb"}, "--history 6: got --head superb, which knows no order"),
        ({"head": "gru", "input": "frames"}, "--input frames: with --history each utterance"),
    ],
)
def test_options_that_no_conversation_has_are_refused(
    options: dict[str, str], message: str
) -> None:
    """Heads without an order, and inputs of many frames."""
    with pytest.raises(ConfigError, match=message):
        ProbeConfig(shards="s", out="o", features="f", history=6, **options)  # type: ignore[arg-type]

"""What was said before: the turns from which a speaker's next emotion is predicted.

Emotion prediction in conversation (emotion2vec, section 5.4): the emotion of a turn is predicted
from the turns before it, without its own sound. A turn is what one speaker says until another one
speaks, and has one or more utterances. The json of each utterance names its `dialogue`, and the
number of its `turn` there. What is predicted is the emotion of the first labeled utterance of a
turn: the later ones have the same past, so that they would only repeat the question.

Utterances without a label are heard as part of the past too; those without an input are not. Turns
with nothing to hear are passed over, so "six turns before" are the last six that can be heard.

Shapes: N utterances that have a label, T utterances of the turns before, L layers, D width.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from trainers.probing.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one speaker says until another one speaks: rows of the corpus, in order."""

    number: float
    speaker: str
    rows: Sequence[int]


class ConversationInputs:
    """The turns before each labeled utterance, one vector for each utterance in them.

    The vectors have one number more than those of `heard`: 1 where the speaker is the one whose
    emotion is predicted, else 0. Without it, nobody could tell who spoke in a dialogue of three.
    """

    def __init__(
        self, heard: Inputs, corpus: CorpusIndex, labeled: NDArray[np.int64], history: int
    ) -> None:
        """Find the turns before the utterances `labeled` [N] of `corpus`, at most `history` each.

        `heard` has the inputs of all utterances of `corpus`. Raises ConfigError when the corpus has
        no dialogues, or a turn has two speakers.
        """
        self.num_layers, self.is_scaled, self.history = heard.num_layers, heard.is_scaled, history
        self._heard, self._speakers = heard, corpus.speaker_of_rows[labeled]
        self.dialogues, dialogues = _read_dialogues(corpus, labeled)

        place_of = {int(row): place for place, row in enumerate(labeled)}
        self._pasts: dict[int, Sequence[Turn]] = {}
        for turns in dialogues.values():
            self._pasts |= self._pasts_in(turns, place_of)

        in_dialogues = {row for turns in dialogues.values() for turn in turns for row in turn.rows}
        self._in_dialogue = [int(row) in in_dialogues for row in labeled]

    @property
    def num_short(self) -> int:
        """How many utterances are predicted from fewer turns than `history`."""
        return sum(0 < len(past) < self.history for past in self._pasts.values())

    def problem(self, row: int) -> str | None:
        """Why an utterance's emotion is not predicted."""
        if not self._in_dialogue[row]:
            return "no_turn: its json has no `dialogue`, or no number as `turn`"
        if row not in self._pasts:
            return "later_in_turn: the first labeled utterance stands for its turn"
        if not self._pasts[row]:
            return "no_history: no turn before it in its dialogue can be heard"
        return None

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        """The vectors [T, L, D + 1] of the utterances of the turns before, in order."""
        parts = []
        for turn in self._pasts[row]:
            is_own = np.float32(turn.speaker == self._speakers[row])
            for said in turn.rows:
                vector_1LD = self._heard.read(said).astype(np.float32)
                own_1L1 = np.full((*vector_1LD.shape[:2], 1), is_own)
                parts.append(np.concatenate([vector_1LD, own_1L1], axis=2))
        return np.concatenate(parts)

    def turns(self, row: int) -> NDArray[np.int64]:
        """The turn [T] of each utterance of `read`, from 0 for the earliest."""
        past = self._pasts[row]
        return np.repeat(np.arange(len(past)), [len(turn.rows) for turn in past])

    def _pasts_in(
        self, turns: Sequence[Turn], place_of: Mapping[int, int]
    ) -> dict[int, Sequence[Turn]]:
        """The audible turns before each turn of a dialogue that has a label, by its place."""
        found: dict[int, Sequence[Turn]] = {}
        audible: list[Turn] = []

        for turn in turns:
            labeled = [place_of[row] for row in turn.rows if row in place_of]
            if labeled:
                found[labeled[0]] = audible[-self.history :]

            rows = [row for row in turn.rows if self._heard.problem(row) is None]
            if rows:
                audible.append(Turn(number=turn.number, speaker=turn.speaker, rows=rows))
        return found


def _read_dialogues(
    corpus: CorpusIndex, labeled: NDArray[np.int64]
) -> tuple[NDArray[np.str_], dict[str, list[Turn]]]:
    """The dialogue's name of each labeled utterance [N], and all dialogues with their turns.

    An utterance without a dialogue has a name of its own.
    """
    names, numbers = corpus.texts("dialogue"), corpus.values("turn")
    is_known = np.isfinite(numbers) & np.asarray([name is not None for name in names])
    if not is_known.any():
        raise ConfigError(
            "--history: no utterance has both `dialogue` and `turn` (a number) in its json; give "
            "both columns to `emostream import`, or leave --history out"
        )

    rows_of: dict[str, dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in np.flatnonzero(is_known).tolist():
        rows_of[str(names[row])][float(numbers[row])].append(row)

    keys = corpus.table["key"].to_pylist()
    speakers = corpus.speaker_of_rows
    dialogues = {
        name: [
            _turn(name, number, sorted(rows, key=lambda row: _in_order(keys[row])), speakers)
            for number, rows in sorted(by_number.items())
        ]
        for name, by_number in rows_of.items()
    }
    own = [f"d{names[row]}" if is_known[row] else f"u{row}" for row in labeled.tolist()]
    return np.asarray(own), dialogues


def _turn(dialogue: str, number: float, rows: Sequence[int], speakers: NDArray[np.object_]) -> Turn:
    found = sorted({str(speakers[row]) for row in rows})
    if len(found) > 1:
        raise ConfigError(
            f"--history: turn {number:g} of dialogue {dialogue} has the speakers "
            f"{', '.join(found)}, expected one; number the turns of a dialogue across its speakers"
        )
    return Turn(number=number, speaker=found[0], rows=rows)


def _in_order(key: str) -> list[tuple[int, str]]:
    """What sorts keys as people number them: u2 before u10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", key)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]

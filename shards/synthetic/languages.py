"""Other languages of the synthetic world: other voices, vowels and words, and the same emotions.

Language 0 is the English-like one of the default world. Every other number is a language of its
own, the same in every world: its voice types lie elsewhere, its vowels are other points of the
vowel triangle, and each of its words has another form. How an emotion moves voice and face does not
change, so that what a model has learned in one language can help in another.

Rejected: recorded vowels of real languages (a claim about these languages that no synthetic voice
could support).
"""

from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from shards.synthetic.voice import VOWEL_FORMANTS_HZ

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_NUM_SYLLABLES = 3  # 343,000 forms, so that 130 words seldom share one
_CORNERS = (0, 2, 4)  # i, a and u: the vowel triangle
_MAX_PITCH_SEMITONES, _MAX_TRACT_SHIFT = 2.0, 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What tells a language apart: `vowels_hz` [vowel, formant], and ratios of its voices."""

    name: str  # as BCP 47 writes it
    number: int
    vowels_hz: NDArray[np.float64]
    pitch_ratio: float = 1.0
    tract_ratio: float = 1.0

    def write(self, text: str) -> str:
        """An English text, word by word in this language."""
        if self.number == 0:
            return text

        return " ".join(_word(self.number, word) for word in text.split())


@cache
def language(number: int) -> Language:
    """The language of this number, from 0."""
    if number == 0:
        return Language(name="en", number=0, vowels_hz=VOWEL_FORMANTS_HZ)

    rng = np.random.default_rng(np.random.SeedSequence(number))
    # Low concentration: points near the corners and edges, where the vowels of languages lie.
    weights = rng.dirichlet([0.6] * len(_CORNERS), size=len(VOWEL_FORMANTS_HZ))
    semitones = rng.uniform(-_MAX_PITCH_SEMITONES, _MAX_PITCH_SEMITONES)

    return Language(
        name=f"x-world{number}",
        number=number,
        vowels_hz=weights @ VOWEL_FORMANTS_HZ[list(_CORNERS)],
        pitch_ratio=float(2.0 ** (semitones / 12.0)),
        tract_ratio=float(1.0 + rng.uniform(-_MAX_TRACT_SHIFT, _MAX_TRACT_SHIFT)),
    )


@cache
def _word(number: int, word: str) -> str:
    rng = np.random.default_rng(np.random.SeedSequence((number, crc32(word.encode()))))

    return "".join(
        _CONSONANTS[rng.integers(len(_CONSONANTS))] + _VOWELS[rng.integers(len(_VOWELS))]
        for _ in range(_NUM_SYLLABLES)
    )

"""Other languages have other voices and words, and show emotions in the same way."""

from dataclasses import replace

import numpy as np
import pytest

from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import World
from shards.synthetic.languages import language
from shards.synthetic.voice import VOWEL_FORMANTS_HZ
from shards.synthetic.words import _PLACES, _TOPICS, AMBIGUOUS_PHRASES, PHRASES

TEXTS = (*_PLACES, *_TOPICS, *AMBIGUOUS_PHRASES, *(text for texts in PHRASES for text in texts))
WORDS = sorted({word for text in TEXTS for word in text.split()})


def test_language_0_is_that_of_the_default_world() -> None:
    """Its words are written as they are, and its vowels are those of the literature."""
    assert [language(0).write(text) for text in TEXTS] == list(TEXTS)
    assert language(0).vowels_hz is VOWEL_FORMANTS_HZ
    assert (language(0).pitch_ratio, language(0).tract_ratio) == (1.0, 1.0)


@pytest.mark.parametrize("number", range(1, 6))
def test_another_language_is_understood_word_by_word(number: int) -> None:
    """Nearly every word has a form of its own, no form is the English one, and forms are kept."""
    written = [language(number).write(word) for word in WORDS]

    assert len(set(written)) >= len(WORDS) - 1
    assert not set(written) & set(WORDS)
    assert language(number).write(" ".join(WORDS)) == " ".join(written)


@pytest.mark.parametrize("number", range(1, 6))
def test_vowels_are_human(number: int) -> None:
    """Formants lie inside the vowel triangle, in ascending order, and are not those of English."""
    vowels = language(number).vowels_hz

    assert vowels.shape == VOWEL_FORMANTS_HZ.shape
    assert (np.diff(vowels, axis=1) > 0).all()
    assert (vowels.min(axis=0) >= VOWEL_FORMANTS_HZ.min(axis=0) - 1e-9).all()
    assert (vowels.max(axis=0) <= VOWEL_FORMANTS_HZ.max(axis=0) + 1e-9).all()
    assert not np.allclose(np.sort(vowels, axis=0), np.sort(VOWEL_FORMANTS_HZ, axis=0))


def test_a_language_changes_the_voice_and_nothing_that_is_felt() -> None:
    """Truth, style and face are those of the same speaker in the first language."""
    here, there = (World(replace(WorldConfig(seed=4), language=number)) for number in (0, 3))
    one, two = here.speaker(2), there.speaker(2)

    assert two.voice.f0_center_hz == pytest.approx(
        one.voice.f0_center_hz * language(3).pitch_ratio, rel=1e-12
    )
    assert here.truth(one, 5) == there.truth(two, 5)
    mine, theirs = here.sample(one, 5), there.sample(two, 5)

    assert mine.face_features is not None
    np.testing.assert_array_equal(mine.face_features, theirs.face_features)
    assert mine.audio != theirs.audio
    assert theirs.transcript == language(3).write(mine.transcript or "")
    assert (mine.metadata["language"], theirs.metadata["language"]) == ("en", "x-world3")

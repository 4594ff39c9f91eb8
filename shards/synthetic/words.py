"""Synthetic transcripts: a sentence about an everyday topic, perhaps with a phrase of the emotion.

The words fail for three honest reasons: the emotion stays unspoken, the phrase is one that several
emotions use, or the words are about another emotion altogether, because they are quoted, ironic, or
somebody else's (the caller decides that). The vocabulary is small, some 130 words, so that a small
text model learns it in seconds; topics say nothing about emotion.

Rejected: a language model as the writer (a download, and no truth about what its words show).
"""

from collections.abc import Mapping

import numpy as np

_PLACES = (
    "at the office",
    "in the kitchen",
    "at the station",
    "on the way home",
    "at school",
    "in the garden",
    "by the door",
)
_TOPICS = (
    "the meeting was moved to monday",
    "my sister called about the trip",
    "they changed the timetable again",
    "the neighbours have a new dog",
    "we talked about the budget",
    "the letter came this morning",
    "he showed me the photographs",
    "she finished the report",
    "the car is back from the garage",
    "our team plays on saturday",
    "the new printer arrived",
    "the children asked about dinner",
)

PHRASES: tuple[tuple[str, ...], ...] = (
    (
        "so that is how it stands",
        "just so you know",
        "nothing special really",
        "that is all there is to it",
        "it is what we planned",
    ),
    (
        "i am so angry about it",
        "this makes me furious",
        "how dare they",
        "i have had enough of this",
        "that is outrageous",
    ),
    (
        "it is disgusting",
        "that makes me sick",
        "how revolting",
        "i can hardly look at it",
        "what a filthy mess",
    ),
    (
        "i am scared",
        "it frightens me",
        "i am afraid of what comes next",
        "i dread it",
        "that is terrifying",
    ),
    (
        "i am so happy about it",
        "that is wonderful",
        "i love it",
        "what a lovely day",
        "it makes me smile",
    ),
    (
        "i am so sad about it",
        "it makes me want to cry",
        "i miss how it was",
        "that is heartbreaking",
        "i feel so alone",
    ),
    (
        "i did not expect that at all",
        "what a surprise",
        "who would have thought",
        "i am astonished",
        "out of nowhere",
    ),
)
"""[emotion] phrases that only that emotion uses; those of neutral are fillers anybody uses."""

AMBIGUOUS_PHRASES: Mapping[str, tuple[int, ...]] = {
    "i can not believe it": (1, 4, 6),
    "oh my goodness": (3, 4, 6),
    "i do not know what to say": (4, 5, 6),
    "this is too much": (1, 2, 5),
    "you should have seen it": (2, 4, 6),
    "not again": (1, 2, 3, 5),
    "i did not sleep all night": (1, 3, 5),
    "they really did it": (1, 4, 6),
}
"""Phrases and the emotions (indices) that use them."""


def write_words(
    emotion: int, *, spoken_probability: float, ambiguous_rate: float, rng: np.random.Generator
) -> str:
    """A transcript in whose words `emotion` (an index) shows, if it is spoken of at all."""
    topic = f"{_TOPICS[rng.integers(len(_TOPICS))]} {_PLACES[rng.integers(len(_PLACES))]}"
    spoken, ambiguous, filled, phrase_first = rng.random(4) < (
        spoken_probability,
        ambiguous_rate,
        0.5,
        0.4,
    )

    if emotion == 0 or not spoken:
        candidates = PHRASES[0] if filled else ("",)
    elif ambiguous:
        candidates = tuple(
            phrase for phrase, users in AMBIGUOUS_PHRASES.items() if emotion in users
        )
    else:
        candidates = PHRASES[emotion]

    phrase = candidates[rng.integers(len(candidates))]
    return " ".join(part for part in ((phrase, topic) if phrase_first else (topic, phrase)) if part)

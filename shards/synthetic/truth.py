"""What is true of a synthetic utterance before it is recorded: felt, shown in each channel, rated.

Felt and shown differ by honest conflicts: a masking smile, a controlled voice, a quoted sentence.
Each channel draws its conflicts by itself, so three channels seldom err alike; only the rare shared
conflict (an act played well) fools all of them, and nothing that compares channels can detect it.
The intensity of an utterance is common to all channels, so weak utterances are hard for everybody.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.synthetic.config import WorldConfig
from shards.synthetic.people import Person

_AFFECT_OF_EMOTION: NDArray[np.float64] = np.array(
    # arousal, valence: the usual places on Russell's circumplex
    [[-0.2, 0.0], [0.6, -0.6], [0.1, -0.6], [0.6, -0.5], [0.5, 0.7], [-0.5, -0.6], [0.7, 0.2]]
)
_NEUTRAL = EMOTIONS.index("neutral")
_ATTENTION = {"voice": 0.35, "face": 0.40, "words": 0.25}
"""How much each channel counts for a rater who both hears and sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceTruth:
    """What is felt (`emotion`) and shown in one utterance; emotions are indices into EMOTIONS."""

    emotion: int
    shown_by_voice: int
    shown_by_face: int
    shown_by_words: int
    intensity: float
    duration_seconds: float


def draw_emotion(speaker: Person, rng: np.random.Generator) -> int:
    """What the speaker feels when nobody else is there: the first draw of an utterance."""
    return int(rng.choice(NUM_EMOTIONS, p=speaker.emotion_prior))


def draw_truth(
    config: WorldConfig, speaker: Person, rng: np.random.Generator, felt: int | None = None
) -> UtteranceTruth:
    """What the speaker feels, and what each channel shows of it.

    `felt` is the emotion that a dialogue brings about; None where the speaker's own prior decides.
    """
    alone = draw_emotion(speaker, rng)
    emotion = alone if felt is None else felt
    duration_seconds = rng.uniform(config.min_seconds, config.max_seconds)
    intensity = np.exp(config.intensity_spread * rng.standard_normal())

    acted = _conflicting(config, emotion, config.shared_conflict_rate, rng)
    shown = [
        _conflicting(config, acted, rate, rng)
        for rate in (
            config.voice.conflict_rate,
            config.face.conflict_rate,
            config.words_conflict_rate,
        )
    ]

    # These draws come last, so that worlds without independence keep their bytes.
    for place, rate in enumerate(
        (
            config.voice.independent_rate,
            config.face.independent_rate,
            config.words_independent_rate,
        )
    ):
        independent, any_emotion = rng.random() < rate, draw_emotion(speaker, rng)
        shown[place] = any_emotion if independent else shown[place]

    if rng.random() >= config.emotional_rate:
        emotion, shown = _NEUTRAL, [_NEUTRAL] * len(shown)
    voice, face, words = shown

    return UtteranceTruth(
        emotion=emotion,
        shown_by_voice=voice,
        shown_by_face=face,
        shown_by_words=words,
        intensity=float(intensity),
        duration_seconds=float(duration_seconds),
    )


def _conflicting(config: WorldConfig, emotion: int, rate: float, rng: np.random.Generator) -> int:
    """`emotion`, or with probability `rate` another one, drawn by how common it is."""
    others = np.array(config.emotion_prior)
    others[emotion] = 0.0
    conflicts, other = rng.random() < rate, rng.choice(NUM_EMOTIONS, p=others / others.sum())
    return int(other) if conflicts else emotion


def rate_emotion(
    config: WorldConfig, truth: UtteranceTruth, rng: np.random.Generator
) -> dict[str, dict[str, int]]:
    """Vote counts of raters who hear only the voice, see only the face, or get everything.

    A vote is for the emotion shown. With probability `rater_noise / intensity` it is a guess:
    "neutral" half of the time, otherwise any emotion, as often as it is felt in the world.
    """
    voice, face, words = (
        np.eye(NUM_EMOTIONS)[shown]
        for shown in (truth.shown_by_voice, truth.shown_by_face, truth.shown_by_words)
    )
    everything = (
        _ATTENTION["voice"] * voice + _ATTENTION["face"] * face + _ATTENTION["words"] * words
    )

    noise = min(1.0, config.rater_noise / truth.intensity)
    guesses = 0.5 * np.eye(NUM_EMOTIONS)[0] + 0.5 * np.array(config.emotion_prior) / np.sum(
        config.emotion_prior
    )

    counts = {
        name: rng.multinomial(config.num_raters, (1.0 - noise) * shown + noise * guesses)
        for name, shown in (("voice", voice), ("face", face), ("audiovisual", everything))
    }

    return {
        name: {e: int(n) for e, n in zip(EMOTIONS, votes, strict=True)}
        for name, votes in counts.items()
    }


def rate_affect(
    config: WorldConfig, speaker: Person, truth: UtteranceTruth, rng: np.random.Generator
) -> tuple[float, float]:
    """Arousal and valence labels, roughly -1 to 1, of the felt emotion on the speaker's own scale.

    The scale (mean and spread) reaches no cue, so a model cannot see it in what a speaker shows; a
    model can only know it from similar voices, as PLDC assumes.
    """
    felt = truth.intensity * _AFFECT_OF_EMOTION[
        truth.emotion
    ] + config.affect_noise * rng.standard_normal(2)
    arousal, valence = speaker.label_mean + speaker.label_spread * felt
    return float(arousal), float(valence)

"""What is true of a synthetic utterance before it is recorded: what is felt, and what is shown.

Felt and shown differ by honest conflicts: a masking smile, a controlled voice, a quoted sentence.
Each channel draws its conflicts by itself, so three channels seldom err alike; only the rare shared
conflict (an act played well) fools all of them, and nothing that compares channels can detect it.
The intensity of an utterance is common to all channels, so weak utterances are hard for everybody.
"""

from dataclasses import dataclass

import numpy as np

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.synthetic.config import WorldConfig
from shards.synthetic.people import Person
from shards.synthetic.raters import AFFECT_OF_EMOTION

_NEUTRAL = EMOTIONS.index("neutral")


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceTruth:
    """What is felt (`emotion`) and shown in one utterance; emotions are indices into EMOTIONS."""

    emotion: int
    shown_by_voice: int
    shown_by_face: int
    shown_by_words: int
    intensity: float
    duration_seconds: float

    @property
    def shown(self) -> dict[str, int]:
        """The emotion that each channel shows, by the channel's name."""
        return {
            "voice": self.shown_by_voice,
            "face": self.shown_by_face,
            "words": self.shown_by_words,
        }


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


def rate_affect(
    config: WorldConfig, speaker: Person, truth: UtteranceTruth, rng: np.random.Generator
) -> tuple[float, float]:
    """Arousal and valence labels, roughly -1 to 1, of the felt emotion on the speaker's own scale.

    The scale (mean and spread) reaches no cue, so a model cannot see it in what a speaker shows; a
    model can only know it from similar voices, as PLDC assumes.
    """
    felt = truth.intensity * AFFECT_OF_EMOTION[
        truth.emotion
    ] + config.affect_noise * rng.standard_normal(2)
    arousal, valence = speaker.label_mean + speaker.label_spread * felt
    return float(arousal), float(valence)

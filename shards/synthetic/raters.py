"""The raters of the synthetic world: they weigh the evidence of what they are given, and vote.

Each channel is log-evidence for the emotion that it shows, and some for those like it. A rater who
hears and sees adds the evidence of both channels up, as one does whose sources err independently,
and is therefore seldom less certain than one who only hears. With little evidence people answer
"neutral", those who see no face more than others. Raters of one utterance share its noise: an
ambiguous clip is ambiguous for everybody. Strengths are such that votes resemble those of CREMA-D
(Cao et al. 2014), in which people rated the same clips by voice, by face and by both.

Rejected: raters who believe one channel, chosen by chance (those who get everything were the least
certain of all, 52 % of utterances with several labels against 36 % by voice; CREMA-D has 55 and
70), and noise alone in place of likeness (several labels as often as in CREMA-D take so much of it
that what is shown would predict the audio-visual labels with a macro-F1 of .50; what was acted
predicts CREMA-D's with .75).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.emotions import EMOTIONS, NUM_EMOTIONS

AFFECT_OF_EMOTION: NDArray[np.float64] = np.array(
    # arousal, valence: the usual places on Russell's circumplex
    [[-0.2, 0.0], [0.6, -0.6], [0.1, -0.6], [0.6, -0.5], [0.5, 0.7], [-0.5, -0.6], [0.7, 0.2]]
)
"""[emotion, arousal and valence]."""

_NEUTRAL = EMOTIONS.index("neutral")
_GIVEN: Mapping[str, tuple[str, ...]] = {
    "voice": ("voice", "words"),
    "face": ("face",),
    "audiovisual": ("voice", "face", "words"),
}
"""The channels that the raters of each stimulus are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterConfig:
    """Who rates the utterances, and how well; evidence is in natural log-odds."""

    num_raters: int = option(
        help="votes for each of the voice-only, face-only and audio-visual ratings", default=10
    )
    answers: tuple[str, ...] = option(
        help="the emotions that raters may name, for example six for a corpus without surprise",
        default=EMOTIONS,
    )
    perceive: Literal["stimulus", "everything"] = option(
        help="stimulus: raters judge the stimulus that they are given. everything: one poll of "
        "raters who hear and see stands for all three stimuli, whose votes are then equal, so that "
        "the ratings of voice and face have nothing to add",
        default="stimulus",
    )

    voice_legibility: float = option(
        help="log-evidence that the voice gives for the emotion it shows, at ordinary intensity",
        default=2.3,
    )
    face_legibility: float = option(help="the same of the face", default=3.4)
    words_legibility: float = option(
        help="the same of the words; 0: raters do not heed what is said, as where all speakers "
        "read the same sentences",
        default=0.0,
    )
    likeness: float = option(
        help="how far evidence for an emotion counts for others too, as a distance on the plane of "
        "arousal and valence. For example, fear and anger are .1 apart, happiness and sadness 1.6",
        default=0.67,
    )
    noise: float = option(
        help="standard deviation of an utterance's random evidence for each emotion, which all of "
        "its raters share",
        default=0.8,
    )
    neutral: float = option(help="how far raters lean to neutral, in log-odds", default=0.2)
    neutral_unseen: float = option(
        help="how much further raters lean to neutral who see no face", default=1.2
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_raters")
        require_at_least(self, 0, "voice_legibility", "face_legibility", "words_legibility")
        require_at_least(self, 0, "noise")
        require_positive(self, "likeness")

        unknown = sorted(set(self.answers) - set(EMOTIONS))
        if unknown or not 2 <= len(self.answers) == len(set(self.answers)):
            raise ConfigError(
                f"answers: got {', '.join(self.answers) or 'none'}, expected at least two "
                f"different ones of {', '.join(EMOTIONS)}"
            )


def likeness_of_emotions(distance: float) -> NDArray[np.float64]:
    """[shown, named]: 1 for the emotion itself, and less the further away another one is.

    A Gaussian of the distance on the plane of arousal and valence, e^-1 at `distance`.
    """
    apart = AFFECT_OF_EMOTION[:, None] - AFFECT_OF_EMOTION[None]
    likeness: NDArray[np.float64] = np.exp(-np.sum(apart**2, axis=-1) / distance**2)
    return likeness


def vote_probabilities(
    config: RaterConfig,
    shown: Mapping[str, int],
    *,
    intensity: float,
    noise: NDArray[np.float64],
    legibility: float = 1.0,
) -> dict[str, NDArray[np.float64]]:
    """How the votes for each stimulus are distributed over `config.answers`.

    `shown` is the emotion (an index) that voice, face and words show, `noise` [emotion] the
    utterance's standard normal noise, and `legibility` a factor on all evidence, by which one
    person is easier to read than another.
    """
    like = likeness_of_emotions(config.likeness)
    evidence = {
        channel: legibility * intensity * strength * like[shown[channel]]
        for channel, strength in (
            ("voice", config.voice_legibility),
            ("face", config.face_legibility),
            ("words", config.words_legibility),
        )
    }

    answers = [EMOTIONS.index(name) for name in config.answers]
    probabilities = {}
    for stimulus, given in _GIVEN.items():
        channels = _GIVEN["audiovisual"] if config.perceive == "everything" else given
        log_odds = config.noise * noise + np.sum([evidence[one] for one in channels], axis=0)
        log_odds[_NEUTRAL] += config.neutral
        log_odds[_NEUTRAL] += 0.0 if "face" in channels else config.neutral_unseen

        odds = np.exp(log_odds[answers] - log_odds[answers].max())
        probabilities[stimulus] = odds / odds.sum()

    return probabilities


def draw_votes(
    config: RaterConfig,
    probabilities: Mapping[str, NDArray[np.float64]],
    rng: np.random.Generator,
) -> dict[str, dict[str, int]]:
    """Vote counts of each stimulus by emotion, as a sample's json holds them."""
    counts = {
        stimulus: rng.multinomial(config.num_raters, chances)
        for stimulus, chances in probabilities.items()
    }
    if config.perceive == "everything":
        counts = dict.fromkeys(counts, counts["audiovisual"])

    return {
        stimulus: {
            emotion: int(number) for emotion, number in zip(config.answers, votes, strict=True)
        }
        for stimulus, votes in counts.items()
    }


def draw_noise(rng: np.random.Generator) -> NDArray[np.float64]:
    """The standard normal noise [emotion] that all raters of an utterance share."""
    return rng.standard_normal(NUM_EMOTIONS)

"""What the embedded corpus is made of: every number of the synthetic world, bounded and explained.

A world is a story about how emotion is felt, shown and recorded (`shards/synthetic/corpus.py` tells
it). Each clause of the story has one number here, so that an effect can be made stronger, weaker,
or absent: `null_world` removes everything that sets speakers apart, and no personalization can help
in it.

Units: a *cue unit* is the distance by which a clearly shown emotion moves a typical cue away from
the speaker's habit; log-odds and log-gains are natural logarithms.

Rejected: one overall "difficulty" knob (it hides which clause makes a result), and emotions fitted
to a real corpus (their truth would again be somebody's opinion). Only the raters are fitted to one,
because votes are opinions.
"""

from dataclasses import dataclass, replace

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.synthetic.demographics import DemographicsConfig
from shards.synthetic.dialogues import DialogueConfig
from shards.synthetic.raters import RaterConfig

_NEVER = 1e-9  # a prior has no zeros, because log-odds are added to it


def _require_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name}: got {value}, expected a share between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far speakers differ: between hidden groups, and within a group.

    Both are standard deviations.
    """

    shared: float = option(help="standard deviation between hidden groups", default=0.0)
    own: float = option(help="standard deviation between speakers of one group", default=0.0)

    def __post_init__(self) -> None:
        require_at_least(self, 0, "shared", "own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One way of showing an emotion: voice or face.

    A channel is noisy, and now and then it honestly shows another emotion.
    """

    noise: float = option(
        help="utterance-to-utterance noise of every cue, in cue units", default=0.5
    )
    conflict_rate: float = option(
        help="share of utterances in which this channel alone shows another emotion", default=0.1
    )
    independent_rate: float = option(
        help="share of utterances in which this channel shows any emotion, as often as the speaker "
        "feels it, whatever is felt now; at 1 the channel tells nothing",
        default=0.0,
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "noise")
        _require_share("conflict_rate", self.conflict_rate)
        _require_share("independent_rate", self.independent_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """All numbers of the world; the defaults give the corpus of `emostream demo`."""

    seed: int = option(
        help="the only source of randomness: the same seed gives the same bytes", default=0
    )

    language: int = option(
        help="0: the English-like language; any other number: a language with other voice types, "
        "vowels and words, in which emotions are shown in the same way",
        default=0,
    )
    dialogue: DialogueConfig | None = option(
        help="speakers 0 and 1 talk to each other, 2 and 3, and so on; without it, nobody does",
        default=None,
    )

    num_groups: int = option(
        help="hidden groups of speakers; with two voice types, groups 0, 2, 4 speak with the first "
        "type and groups 1, 3, 5 with the second",
        default=6,
    )
    f0_centers_hz: tuple[float, ...] = option(
        help="for each voice type, the pitch around which its speakers talk", default=(115.0, 205.0)
    )
    tract_scales: tuple[float, ...] = option(
        help="for each voice type, its formant frequencies relative to a long vocal tract",
        default=(1.0, 1.16),
    )
    group_tract_step: float = option(
        help="by how much formants differ between groups of one voice type, as a ratio - 1",
        default=0.05,
    )
    f0_spread_semitones: float = option(help="pitch spread of a group's speakers", default=1.2)
    tract_spread: float = option(
        help="formant spread of a group's speakers, as a ratio - 1", default=0.015
    )

    mean_utterances: float = option(help="mean number of utterances of a speaker", default=36.0)
    utterance_count_spread: float = option(help="log-normal spread of that number", default=0.35)
    min_utterances: int = option(help="no speaker has fewer", default=12)
    min_seconds: float = option(help="shortest utterance", default=1.0)
    max_seconds: float = option(help="longest utterance", default=1.6)

    emotion_prior: tuple[float, ...] = option(
        help=f"how often each emotion is felt, in the order {', '.join(EMOTIONS)}",
        default=(0.34, 0.19, 0.04, 0.04, 0.20, 0.05, 0.14),
    )
    prior: Spread = option(
        help="log-odds spread of speakers' label priors", default=Spread(shared=0.5, own=0.3)
    )
    emotional_rate: float = option(
        help="share of utterances in which anything is felt and shown; the others are neutral "
        "throughout, as a reader is who reads a book aloud",
        default=1.0,
    )
    intensity_spread: float = option(
        help="log-normal spread of how strongly an utterance's emotion is felt", default=0.25
    )
    voice_baseline: Spread = option(
        help="habitual level of every voice cue, in cue units", default=Spread(shared=0.5, own=0.5)
    )
    face_baseline: Spread = option(
        help="resting level of every face cue, in cue units", default=Spread(shared=0.4, own=0.4)
    )
    log_gain: Spread = option(
        help="how expressive a speaker is in every cue", default=Spread(shared=0.35, own=0.2)
    )
    talkativeness: Spread = option(
        help="log-odds spread of putting an emotion into words", default=Spread(shared=0.3, own=0.3)
    )

    voice: Channel = option(help="the voice", default=Channel(noise=0.45, conflict_rate=0.10))
    face: Channel = option(help="the face", default=Channel(noise=0.4, conflict_rate=0.15))
    words_conflict_rate: float = option(
        help="share of utterances whose words alone speak of another emotion", default=0.12
    )
    words_independent_rate: float = option(
        help="share of utterances whose words speak of any emotion, as often as the speaker feels "
        "it, whatever is felt now",
        default=0.0,
    )
    unspoken_rate: float = option(
        help="share of emotional utterances whose words are about the topic only", default=0.2
    )
    ambiguous_rate: float = option(
        help="share of emotional phrases that several emotions use", default=0.2
    )
    shared_conflict_rate: float = option(
        help="share of utterances in which all channels show the same other emotion", default=0.02
    )
    min_signal_to_noise_db: float = option(
        help="signal-to-noise ratio of the noisiest recordings", default=15.0
    )
    max_signal_to_noise_db: float = option(
        help="signal-to-noise ratio of the cleanest recordings", default=35.0
    )
    frames_per_second: float = option(help="rate of the face features", default=10.0)
    face_frame_noise: float = option(
        help="frame-to-frame tracking noise of every face cue, in cue units", default=0.3
    )

    raters: RaterConfig = option(
        help="who votes for the emotion of each voice, face and whole utterance, and how",
        default=RaterConfig(),
    )
    demographics: DemographicsConfig | None = option(
        help="sex, age and background of the speakers, and how far raters read some of them "
        "better than others; without it, samples tell the voice type only",
        default=None,
    )
    label_mean: Spread = option(
        help="shift of a speaker's arousal and valence labels", default=Spread(shared=0.15, own=0.1)
    )
    label_log_spread: Spread = option(
        help="log of the factor on a speaker's arousal and valence",
        default=Spread(shared=0.35, own=0.1),
    )
    affect_noise: float = option(help="utterance noise of arousal and valence labels", default=0.15)

    def __post_init__(self) -> None:
        _require_voices(self)
        _require_counts(self)

        if len(self.emotion_prior) != NUM_EMOTIONS or min(self.emotion_prior) <= 0:
            raise ConfigError(
                f"emotion_prior: got {self.emotion_prior}, expected {NUM_EMOTIONS} numbers above 0"
            )

        for name in (
            "emotional_rate",
            "words_conflict_rate",
            "words_independent_rate",
            "unspoken_rate",
            "ambiguous_rate",
            "shared_conflict_rate",
        ):
            _require_share(name, getattr(self, name))

        require_at_least(
            self,
            0,
            "group_tract_step",
            "f0_spread_semitones",
            "tract_spread",
            "utterance_count_spread",
        )
        require_at_least(self, 0, "intensity_spread", "face_frame_noise", "affect_noise")

        if self.min_signal_to_noise_db > self.max_signal_to_noise_db:
            raise ConfigError(
                f"min_signal_to_noise_db: got {self.min_signal_to_noise_db}, "
                f"expected at most max_signal_to_noise_db, {self.max_signal_to_noise_db}"
            )


def null_world(*, seed: int = 0) -> WorldConfig:
    """A world of interchangeable speakers: one voice, one prior, one style.

    Personalization has nothing to find in it.
    """
    nobody_differs = Spread()

    return WorldConfig(
        seed=seed,
        num_groups=1,
        f0_centers_hz=(150.0,),
        tract_scales=(1.08,),
        f0_spread_semitones=0.0,
        tract_spread=0.0,
        emotion_prior=(1.0,) * NUM_EMOTIONS,
        prior=nobody_differs,
        voice_baseline=nobody_differs,
        face_baseline=nobody_differs,
        log_gain=nobody_differs,
        talkativeness=nobody_differs,
        label_mean=nobody_differs,
        label_log_spread=nobody_differs,
    )


def acted_world(*, seed: int = 0) -> WorldConfig:
    """A world like CREMA-D: six emotions that are acted alike often, among which raters choose.

    Nobody acts surprise. Neutral is acted less often than in the default world, but people vote for
    it as often, because they lean to it more.
    """
    default = RaterConfig()

    return WorldConfig(
        seed=seed,
        emotion_prior=tuple(
            _NEVER if emotion == "surprise" else 0.146 if emotion == "neutral" else 0.171
            for emotion in EMOTIONS
        ),
        raters=replace(
            default,
            answers=tuple(emotion for emotion in EMOTIONS if emotion != "surprise"),
            neutral=1.0,
        ),
    )


def _require_voices(config: WorldConfig) -> None:
    num_types = len(config.f0_centers_hz)
    if num_types == 0 or num_types != len(config.tract_scales):
        raise ConfigError(
            f"f0_centers_hz and tract_scales describe the same voice types: got {num_types} and "
            f"{len(config.tract_scales)} values, expected the same number, at least 1"
        )

    if config.num_groups < num_types:
        raise ConfigError(
            f"num_groups: got {config.num_groups}, expected at least one for each of {num_types} "
            "voice types"
        )

    if not 50.0 <= min(config.f0_centers_hz) <= max(config.f0_centers_hz) <= 400.0:
        raise ConfigError(
            f"f0_centers_hz: got {config.f0_centers_hz}, expected speaking pitches, 50 to 400 Hz"
        )

    if not 0.7 <= min(config.tract_scales) <= max(config.tract_scales) <= 1.6:
        raise ConfigError(
            f"tract_scales: got {config.tract_scales}, expected ratios of human size, 0.7 to 1.6"
        )


def _require_counts(config: WorldConfig) -> None:
    require_at_least(config, 0, "seed", "language")

    if config.min_utterances < 1 or config.mean_utterances < config.min_utterances:
        raise ConfigError(
            f"min_utterances, mean_utterances: got {config.min_utterances}, "
            f"{config.mean_utterances}, expected 1 <= min_utterances <= mean_utterances"
        )

    if not 0.5 <= config.min_seconds <= config.max_seconds <= 30.0:
        raise ConfigError(
            f"min_seconds, max_seconds: got {config.min_seconds}, {config.max_seconds}, "
            "expected 0.5 <= min_seconds <= max_seconds <= 30"
        )

    require_positive(config, "frames_per_second")

"""The people of the synthetic world: hidden groups, and speakers around them.

A speaker has a voice, a face, a style and a label prior, and is a pure function of the
configuration and the speaker's number: nobody else's draws touch it, so any part of the corpus can
be made anywhere, in any order. A group can be heard (voice type and vocal tract) and shares part of
its style, prior and label spread with its members; methods that compare speakers can find that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from shards.emotions import NUM_EMOTIONS
from shards.synthetic.config import WorldConfig
from shards.synthetic.demographics import Demographics, deal_demographics
from shards.synthetic.face import NUM_FACE_CUES
from shards.synthetic.languages import language
from shards.synthetic.voice import NUM_VOICE_CUES, Voice

NUM_AFFECTS = 2
"""Continuous labels: arousal and valence."""

_STYLE_WIDTHS = {
    "prior": NUM_EMOTIONS,
    "voice_baseline": NUM_VOICE_CUES,
    "voice_log_gain": NUM_VOICE_CUES,
    "face_baseline": NUM_FACE_CUES,
    "face_log_gain": NUM_FACE_CUES,
    "talkativeness": 1,
    "label_mean": NUM_AFFECTS,
    "label_log_spread": NUM_AFFECTS,
}
_GROUP_STREAM, _SPEAKER_STREAM = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One person. Cue arrays are in cue units, in the order of VOICE_CUES and FACE_CUES."""

    index: int
    name: str
    group: int
    voice_type: int
    voice: Voice
    num_utterances: int
    emotion_prior: NDArray[np.float64]
    voice_baseline: NDArray[np.float64]
    voice_gain: NDArray[np.float64]
    face_baseline: NDArray[np.float64]
    face_gain: NDArray[np.float64]
    spoken_probability: float
    label_mean: NDArray[np.float64]
    label_spread: NDArray[np.float64]
    demographics: Demographics | None = None

    @property
    def legibility(self) -> float:
        """Factor on the evidence that raters get from this speaker."""
        return 1.0 if self.demographics is None else self.demographics.legibility


def draw_speaker(config: WorldConfig, index: int) -> Person:
    """The speaker of number `index`: a draw around one of the hidden groups."""
    rng = np.random.default_rng(
        np.random.SeedSequence(config.seed, spawn_key=(_SPEAKER_STREAM, index))
    )

    demographics = (
        None
        if config.demographics is None
        else deal_demographics(config.demographics, config.seed, index)
    )
    group = _group_of_the_sex(config, demographics, int(rng.integers(config.num_groups)))
    style = _draw_style(config, group, rng)

    log_prior = np.log(config.emotion_prior) + style["prior"]
    if demographics is not None:
        log_prior += demographics.prior
    prior = np.exp(log_prior - log_prior.max())

    return Person(
        index=index,
        name=f"speaker-{index:05d}",
        group=group,
        voice_type=group % len(config.f0_centers_hz),
        voice=_draw_voice(config, group, rng),
        num_utterances=_draw_num_utterances(config, rng),
        emotion_prior=prior / prior.sum(),
        voice_baseline=style["voice_baseline"],
        voice_gain=np.exp(style["voice_log_gain"]),
        face_baseline=style["face_baseline"],
        face_gain=np.exp(style["face_log_gain"]),
        spoken_probability=float(expit(style["talkativeness"][0] - logit(config.unspoken_rate))),
        label_mean=style["label_mean"],
        label_spread=np.exp(style["label_log_spread"]),
        demographics=demographics,
    )


def _group_of_the_sex(config: WorldConfig, demographics: Demographics | None, drawn: int) -> int:
    """The hidden group: the one that was drawn, or its counterpart with the voice of the sex.

    Only where there is a voice type for each sex; otherwise the sex cannot be heard.
    """
    num_types = len(config.f0_centers_hz)
    if (
        demographics is None
        or config.demographics is None
        or len(config.demographics.sex) != num_types
    ):
        return drawn

    group = drawn - drawn % num_types + demographics.sex_rank
    # The last rank of groups may lack some voice types.
    return group if group < config.num_groups else group - num_types


def _draw_style(
    config: WorldConfig, group: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Departures from the average person: what the group shares plus the speaker's own."""
    group_rng = np.random.default_rng(
        np.random.SeedSequence(config.seed, spawn_key=(_GROUP_STREAM, group))
    )

    spreads = {
        "prior": config.prior,
        "voice_baseline": config.voice_baseline,
        "voice_log_gain": config.log_gain,
        "face_baseline": config.face_baseline,
        "face_log_gain": config.log_gain,
        "talkativeness": config.talkativeness,
        "label_mean": config.label_mean,
        "label_log_spread": config.label_log_spread,
    }

    return {
        name: spreads[name].shared * group_rng.standard_normal(width)
        + spreads[name].own * rng.standard_normal(width)
        for name, width in _STYLE_WIDTHS.items()
    }


def _draw_voice(config: WorldConfig, group: int, rng: np.random.Generator) -> Voice:
    """A voice; groups of one voice type differ in vocal tract length, in even steps."""
    num_types = len(config.f0_centers_hz)
    voice_type, rank = group % num_types, group // num_types
    num_ranks = -(-(config.num_groups - voice_type) // num_types)
    steps = rank - (num_ranks - 1) / 2

    pitch, tract = rng.standard_normal(2)
    f0_center_hz = config.f0_centers_hz[voice_type] * 2.0 ** (
        config.f0_spread_semitones * pitch / 12.0
    )
    spread = (1.0 + config.group_tract_step) ** steps * (1.0 + config.tract_spread) ** tract

    tongue = language(config.language)

    return Voice(
        f0_center_hz=float(f0_center_hz * tongue.pitch_ratio),
        tract_scale=float(config.tract_scales[voice_type] * spread * tongue.tract_ratio),
    )


def _draw_num_utterances(config: WorldConfig, rng: np.random.Generator) -> int:
    """A draw from a log-normal distribution with the configured mean, and a floor."""
    spread = config.utterance_count_spread
    drawn = config.mean_utterances * np.exp(spread * rng.standard_normal() - spread**2 / 2)
    return max(config.min_utterances, round(float(drawn)))

"""Options of the labelers that map classes or write transcripts; without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from actors.inference.checkpoints import CheckpointConfig
from shards.config import ConfigError, option
from shards.emotions import EMOTIONS
from shards.licenses import research_only_maker


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerConfig(CheckpointConfig):
    """A classifier whose classes are mapped onto the seven emotions."""

    drop_labels: tuple[str, ...] = option(
        help="classes that are left out, with the rest renormalized, if the checkpoint has them",
        default=("contempt", "other", "no_agreement"),
    )
    label_names: Mapping[str, str] = option(
        help="what classes with other names mean, as CLASS=EMOTION (calm=neutral, LABEL_0=anger)",
        default_factory=dict,
    )

    def __post_init__(self) -> None:
        CheckpointConfig.__post_init__(self)
        for label, emotion in self.label_names.items():
            if emotion not in EMOTIONS:
                raise ConfigError(
                    f"label_names: got {emotion!r} for {label!r}, expected one of "
                    f"{', '.join(EMOTIONS)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class AcousticsConfig:
    """Which acoustic descriptors are averaged over an utterance, and over which of its frames."""

    features: Literal["egemaps", "egemaps-32-16", "builtin"] = option(
        help="egemaps: the 25 low-level descriptors of eGeMAPSv02 (extra: opensmile, license for "
        "research only); egemaps-32-16: the same from frames of 32 ms every 16 ms, as in the "
        "paper; builtin: 25 similar descriptors that need no license",
        default="builtin",
    )
    frames: Literal["all", "voiced"] = option(
        help="voiced: descriptors of a voice, such as pitch, are averaged over frames with a "
        "voice; all: over all frames, where the others count as 0",
        default="voiced",
    )

    @property
    def needs_research_license(self) -> bool:
        """Whether openSMILE makes the targets, whose license is for research only."""
        return research_only_maker(self.features) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLabelerConfig(LabelerConfig):
    """A text classifier, and the languages that it can read."""

    languages: tuple[str, ...] = option(
        help="languages that the checkpoint was trained on, as codes (en, de, ...); an utterance "
        "whose json states another `language` gets no prediction from words. Default: any",
        default=(),
    )

    def __post_init__(self) -> None:
        LabelerConfig.__post_init__(self)
        for language in self.languages:
            if language != primary_language(language) or not language.isalpha():
                raise ConfigError(
                    f"languages: got {language!r}, expected codes without a region, such as en or "
                    "de"
                )


def primary_language(code: str) -> str:
    """The language of a code with or without a region: "en" for "en", "EN-us" and "en_GB"."""
    return code.strip().replace("_", "-").partition("-")[0].casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecognitionConfig(CheckpointConfig):
    """Transcription (Whisper family) of utterances that have no transcript."""

    language: str | None = option(
        help="spoken language (en, de, ...); default: detected in each window", default=None
    )

"""Options about the data, which all recipes share. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Any, Literal

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.loading.batch_plan import SpeakerSetView, UtteranceView
from shards.loading.folds import parse_rule
from shards.loading.targets import TargetConfig
from shards.media.face_config import FaceBoxConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which utterances are loaded, in which batches, and what is predicted of them."""

    modality: Literal["audio", "face", "video"] = option(
        help="Input of the encoder. audio: the sound; face: the features in face.npy; video: the "
        "pictures of the video.",
        default="audio",
    )
    faces: FaceBoxConfig = option(
        help="Settings for cutting faces from video. Without a detector, the encoder sees whole "
        "pictures.",
        default_factory=FaceBoxConfig,
    )
    target: TargetConfig = option(
        help="Target that a model learns to predict.", default_factory=TargetConfig
    )
    utterances: UtteranceView = option(
        help="Batches of single utterances, for every recipe except setpeer.",
        default_factory=UtteranceView,
    )
    sets: SpeakerSetView = option(
        help="Batches of sets of utterances, for the recipe setpeer.",
        default_factory=SpeakerSetView,
    )
    sampling: Literal["shuffled", "class_balanced"] = option(
        help="Which training utterances an epoch holds. shuffled: each one once; class_balanced: "
        "as many in all, but equally many of each class: those of rare classes come several "
        "times, and of frequent classes a part comes, another one in each epoch.",
        default="shuffled",
    )
    folds: str = option(
        help="Division of the corpus into folds, for cross-validation. split: none, the splits are "
        "those in the json; speaker:5: five folds of whole speakers; leave-one-speaker: each "
        "speaker is a fold; session, or given:FIELD: each value of this field of the json is a "
        "fold; random:5: five folds of utterances, which share speakers.",
        default="split",
    )
    fold: int = option(
        help="Fold to test, counted from 0. The next fold is for validation, the others are for "
        "training. `emostream train --folds all` trains on all folds.",
        default=0,
    )
    allow_shared_speakers: bool = option(
        help="Whether a speaker may be in several splits. The figures then say how well a model "
        "recognizes people whom it knows, and every page repeats that.",
        default=False,
    )
    max_seconds: float | None = option(
        help="Greatest length of an utterance in training and validation, in seconds. Without it, "
        "the longest utterance of a batch says how long the whole batch is.",
        default=None,
    )
    longer: Literal["crop", "leave_out"] = option(
        help="What to do with longer utterances. crop: hear max_seconds of them, in training at a "
        "place drawn anew for each epoch, in validation from the beginning; leave_out: do not use "
        "them, and list them in OUT/left_out.json. `evaluate` measures whole utterances.",
        default="crop",
    )
    num_speakers: int | None = option(
        help="Number of training speakers. Without a number, all are used. The speakers chosen "
        "for a smaller number are also chosen for a larger one.",
        default=None,
    )
    num_utterances: int | None = option(
        help="Number of training utterances with a label. Without a number, all are used. Each "
        "class keeps its share, and those chosen for a smaller number are also chosen for a larger "
        "one.",
        default=None,
    )
    subset_seed: int = option(
        help="Seed that chooses the utterances of num_utterances; other seeds resample.", default=0
    )
    known_seconds: float = option(
        help="Seconds of each speaker of known_split to train on too; 0: none. As many training "
        "speakers as known_split has are left out. For the personalization gap, evaluate this "
        "model with the same --known-seconds.",
        default=0.0,
    )
    known_split: str = option(
        help="Split of the speakers that known_seconds is taken from.", default="test"
    )
    num_workers: int = option(
        help="Number of processes that decode training utterances; 0: a thread beside the "
        "training decodes them.",
        default=0,
    )
    cache_mib: int = option(
        help="MiB of decoded training utterances that each decoding process keeps in memory; "
        "0: none.",
        default=1024,
    )

    @property
    def cache_bytes(self) -> int:
        """The value of `cache_mib` in bytes."""
        return self.cache_mib * 2**20

    @property
    def as_heard(self) -> dict[str, Any]:
        """Which utterances a run learns from, as `trained_on` in its config.json says it."""
        return {
            "num_speakers": self.num_speakers,
            "num_utterances": self.num_utterances,
            "known_seconds": self.known_seconds,
            "known_split": self.known_split,
            "folds": self.folds,
            "fold": self.fold,
            "allow_shared_speakers": self.allow_shared_speakers,
        }

    def __post_init__(self) -> None:
        require_at_least(self, 0, "cache_mib", "num_workers", "known_seconds", "fold")
        require_positive(self, "num_speakers", "num_utterances", "max_seconds")
        parse_rule(self.folds)

        if self.max_seconds is not None and self.modality == "video" and self.longer == "crop":
            raise ConfigError(
                f"max_seconds: got {self.max_seconds:g} and longer crop for modality video, whose "
                "clips have as many pictures whatever their length is; leave max_seconds out, or "
                "set data.longer=leave_out"
            )
        if self.num_utterances is not None and self.known_seconds:
            raise ConfigError(
                "data.num_utterances, data.known_seconds: got both, expected at most one: a subset "
                "would leave out some of the known seconds"
            )

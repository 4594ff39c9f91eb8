"""Options of `emostream evaluate`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.loading.targets import Stimulus

# The file of an evaluation that other commands read.
METRICS_NAME = "metrics.json"
PREDICTIONS_NAME = "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Options of `emostream evaluate`."""

    checkpoint: tuple[str, ...] = option(
        is_paths=True,
        help="Exported model: RUN/best or RUN/last. Several models, one for each fold, are "
        "measured together: each on the utterances that it left out.",
    )
    shards: str = option(help="Packed shards: a glob, a folder or a file.")
    out: str = option(help="Folder for metrics.json, predictions.parquet and evaluation.html.")
    split: str = option(default="test", help="Split to evaluate.")
    set_size: int = option(
        default=8,
        help="Maximum number of utterances of a speaker that are recognized together; 0: all.",
    )
    support: Literal["same", "disjoint", "wrong"] = option(
        default="same",
        help="Utterances that a personalized model gets to know the speaker from. same: those of "
        "the set itself; disjoint: others of the same speaker; wrong: another speaker's. The last "
        "two are controls.",
    )
    pldc: Literal["mu", "sigma", "both"] | None = option(
        default=None,
        help="Calibration of predictions by the labels of similar training speakers. mu: by their "
        "mean; sigma: by their spread; both: by both. Without it, nothing is calibrated.",
    )
    neighbors: int = option(
        default=5,
        help="Number of similar training speakers that PLDC averages over.",
        former=("neighbours",),
    )
    known_seconds: float = option(
        default=0.0,
        help="Seconds of each speaker to leave out; 0: none. A model trained with "
        "data.known_seconds has heard them, so both sides of the personalization gap are measured "
        "on the rest.",
    )
    f1_over: Literal["present", "classes"] | None = option(
        default=None,
        help="Classes that macro-F1 is the mean over. present: those in the truth or in the "
        "predictions, as in scikit-learn; classes: all, where a class that nobody has counts 0. "
        "Without it, as data.target.f1_over in the model's training.",
    )
    stimulus: Stimulus | None = option(
        default=None,
        help="Ratings to measure against, for a model trained with data.target.kind=ratings. "
        "voice: of the sound alone; face: of the picture alone; audiovisual: of both. Without it, "
        "those that the model learned. Models of different ratings can only be compared against "
        "the same ones.",
    )
    allow_shared_speakers: bool = option(
        default=False,
        help="Measure although speakers are in several splits; the page repeats it.",
    )
    other_corpus: bool = option(
        default=False,
        help="Measure a model that was trained on folds on other shards, by their own splits.",
    )
    groups: tuple[str, ...] = option(
        default=(),
        help="Fields of the samples' json, such as demographics.sex, or sex for short: the figures "
        "are given for each of their values too (ages by bands of ten years), and how far apart "
        "the values are. A value with fewer than 30 utterances or 5 speakers is too small to judge "
        "and left out of these differences.",
    )
    color_by: tuple[str, ...] = option(
        default=("speaker",),
        help="Fields of the samples' json by which the page colors speaker embeddings.",
        former=("colour_by",),
    )
    seed: int = option(
        default=0,
        help="Seed that decides which utterances make a set, and how the page's map starts.",
    )

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError("--checkpoint: got none, expected an exported model such as RUN/best")
        require_at_least(self, 0, "--set-size")
        require_positive(self, "--neighbors")

"""Options of an evaluation; without torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import option, require_at_least, require_positive

METRICS_NAME = "metrics.json"  # what an evaluation is read by


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Options of `emostream evaluate`."""

    checkpoint: str = option(help="Exported model: RUN/best or RUN/last.")
    shards: str = option(help="Packed shards: a glob, folder or file.")
    out: str = option(help="Folder for metrics.json, predictions.parquet and evaluation.html.")
    split: str = option(default="test", help="Split to evaluate.")
    set_size: int = option(
        default=8, help="Utterances of a speaker recognized together, at most; 0: all of them."
    )
    support: Literal["same", "disjoint", "wrong"] = option(
        default="same",
        help="What a personalized model's speaker embedding is made from: the utterances "
        "themselves, others of the same speaker, or another speaker's (controls).",
    )
    pldc: Literal["mu", "sigma", "both"] | None = option(
        default=None,
        help="Calibrate predictions by similar training speakers: their label mean, spread, or "
        "both.",
    )
    neighbors: int = option(
        default=5, help="Similar speakers PLDC averages over.", former=("neighbours",)
    )
    known_seconds: float = option(
        default=0.0,
        help="Leave out so many seconds of each speaker: those that a model with "
        "data.known_seconds has trained on. Both sides of the personalization gap are measured on "
        "the rest.",
    )
    color_by: tuple[str, ...] = option(
        default=("speaker",),
        help="Fields of the samples' json that the page colors speaker embeddings by.",
        former=("colour_by",),
    )
    seed: int = option(
        default=0, help="Which utterances make a set, and where the page's map begins."
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "--set-size")
        require_positive(self, "--neighbors")

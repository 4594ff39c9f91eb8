"""Options of `multimodal` (multimodal-adaptive-pretraining, section III); they need no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shards.config import ConfigError, option, require_at_least, require_positive
from trainers.recipes.recipe import Recipe, RecipeConfig, Run

# The columns of prediction tables that O1, O2 and O3 are, each with the name of its weight.
WEIGHTS = {
    "acoustics": "acoustics_weight",
    "sentiment": "sentiment_weight",
    "face_embedding": "face_weight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MultimodalConfig(RecipeConfig):
    """Adapts a speech encoder to emotion by what beside labels can be told of an utterance.

    From its sound alone it learns to predict acoustic descriptors (O1), the sentiment of its words
    (O2) and its speaker's face (O3). An objective of weight 0 is left out.
    """

    uses_labels: ClassVar[bool] = False
    reads_targets: ClassVar[bool] = True
    needs_speakers: ClassVar[bool] = False

    acoustics_weight: float = option(help="weight of O1, the acoustic descriptors", default=1.0)
    sentiment_weight: float = option(
        help="weight of O2, the sentiment of the transcript (the paper's lambda)", default=0.5
    )
    face_weight: float = option(help="weight of O3, the face embedding", default=1.0)
    acoustics: Literal["all", "energy"] = option(
        help="what O1 is. all: every descriptor; energy: whether the level is above the median of "
        "the training utterances, the paper's weaker first try (Figure 4)",
        default="all",
    )
    sentiment: Literal["one_hot", "distribution"] = option(
        help="what O2 is. one_hot: the likeliest sentiment; distribution: its probabilities",
        default="one_hot",
    )
    mse: Literal["mean", "sum"] = option(
        help="how the squared errors of an utterance's values are joined. sum is Eq. 1 as it is "
        "printed, in which O3 outweighs the others by its width",
        default="mean",
    )
    splits: tuple[str, ...] = option(help="splits whose utterances are used", default=("train",))
    held_out_share: float = option(
        help="share of the utterances that is held out, to choose the best checkpoint by its loss",
        default=0.15,
    )
    held_out: Literal["speaker", "utterance"] = option(
        help="what is held out. speaker: all utterances of some speakers; utterance: some "
        "utterances of every speaker, as in the paper",
        default="speaker",
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, *WEIGHTS.values())
        require_positive(self, "held_out_share")

        if not self.objectives:
            raise ConfigError(
                f"{', '.join(WEIGHTS.values())}: all are 0, expected at least one weight above 0"
            )
        if self.held_out_share >= 1:
            raise ConfigError(
                f"held_out_share: got {self.held_out_share}, expected a share below 1"
            )
        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")

    @property
    def objectives(self) -> dict[str, float]:
        """The weight of each objective that counts, by its column."""
        weights = {column: getattr(self, name) for column, name in WEIGHTS.items()}
        return {column: weight for column, weight in weights.items() if weight > 0}

    def check(self, run: Run) -> None:
        """Refuse inputs other than sound, and a run without targets."""
        if run.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, expected audio, because "
                "the encoder is to be one of sound"
            )
        if run.targets is None:
            raise ConfigError(
                f"--targets: must be given for {run.recipe}; it is the folder of prediction tables "
                "that `emostream label` wrote with `objectives` in its panel"
            )


RECIPES = {
    "multimodal": Recipe(
        summary="adapts a speech encoder by acoustic descriptors, sentiment and faces that "
        "`label` measured; afterwards, fine-tune from RUN/best",
        config=MultimodalConfig,
        task="trainers.recipes.multimodal.task:MultimodalTask",
    ),
}

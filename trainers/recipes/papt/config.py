"""Options of `tapt` and `papt` (papt-pldc, sections 3 and 4); they need no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shards.config import ConfigError, option, require_positive
from trainers.recipes.papt.video_config import VideoPaptConfig, VideoPretrainConfig
from trainers.recipes.recipe import Recipe, RecipeConfig, Run

MAX_PSEUDO_LABELS = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(RecipeConfig):
    """Task-adaptive pre-training: HuBERT's masked prediction continues on the corpus at hand.

    It uses no labels.
    """

    against_class_balance: ClassVar[str | None] = "it uses no labels"

    splits: tuple[str, ...] = option(
        help="splits whose sound is used; papt-pldc, Table 2 adds validation and test",
        default=("train",),
    )
    held_out_share: float = option(
        help="share of each speaker's utterances that is held out for validation", default=0.05
    )
    label_layer: int | None = option(
        help="encoder layer (from 1) whose output is clustered into pseudo-labels; default: MFCCs",
        default=None,
    )
    num_labels: int = option(help="pseudo-labels (k-means clusters)", default=500)
    cluster_frames: int = option(help="frames that k-means is fitted to", default=200_000)
    mask_probability: float = option(
        help="share of frames that the hidden spans would cover if they did not overlap",
        default=0.8,
    )
    mask_length: int = option(help="frames in a hidden span", default=10)
    min_spans: int = option(help="least number of hidden spans in an utterance", default=2)
    projection_size: int | None = option(
        help="width in which frames and pseudo-labels are compared; default: HuBERT's, which is "
        "768 for an encoder 1024 or more wide (large), else 256 (base)",
        default=None,
    )
    temperature: float = option(help="temperature of the cosine logits", default=0.1)
    features_penalty: float = option(
        help="weight of the mean square of the front end's output", default=10.0
    )
    min_samples: int = option(
        help="samples (16 kHz) an utterance needs; shorter ones are left out", default=32_000
    )
    max_samples: int = option(
        help="samples (16 kHz) to which longer utterances are cropped at random", default=250_000
    )

    def __post_init__(self) -> None:
        require_positive(
            self, "num_labels", "cluster_frames", "mask_length", "temperature", "projection_size"
        )
        require_positive(self, "min_samples", "max_samples", "held_out_share", "mask_probability")

        if self.num_labels > MAX_PSEUDO_LABELS:
            raise ConfigError(
                f"num_labels: got {self.num_labels}, expected at most {MAX_PSEUDO_LABELS}"
            )
        if self.held_out_share >= 1 or self.mask_probability > 1:
            raise ConfigError(
                "held_out_share, mask_probability: expected shares, the first below 1 and the "
                "second at most 1"
            )

        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")

    def check(self, run: Run) -> None:
        """Refuse inputs other than sound, and options that choose among training speakers."""
        if run.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, expected audio, "
                "because masked prediction is made for speech; for video, train tapt-video or "
                "papt-video"
            )

        if run.data.num_speakers is not None or run.data.known_seconds:
            raise ConfigError(
                f"data.num_speakers, data.known_seconds: got one of them for {run.recipe}, which "
                "uses no labels and hears all speakers of model.splits; leave them out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaptConfig(PretrainConfig):
    """Personalized adaptive pre-training: `tapt` with an embedding for each speaker."""

    fusion: Literal["last", "first", "prefix"] = option(
        help="where the speaker's embedding enters the encoder", default="last"
    )

    def check(self, run: Run) -> None:
        """Refuse to start without an encoder, which finds the proxies of unseen speakers."""
        PretrainConfig.check(self, run)
        if run.encoder.checkpoint is None:
            raise ConfigError(
                "encoder.checkpoint: must be given for papt; it is the original encoder, which "
                "also finds the proxies of unseen speakers (`emostream train tapt` makes a small "
                "one from nothing)"
            )


RECIPES = {
    "tapt": Recipe(
        summary="adapts an encoder to the corpus' sound by masked prediction; afterwards, "
        "fine-tune from RUN/best",
        config=PretrainConfig,
        task="trainers.recipes.papt.task:PretrainingTask",
    ),
    "papt": Recipe(
        summary="tapt with an embedding for each speaker",
        config=PaptConfig,
        task="trainers.recipes.papt.personal_task:PaptTask",
    ),
    "tapt-video": Recipe(
        summary="adapts a video encoder to the corpus' pictures by masked reconstruction; "
        "afterwards, fine-tune from RUN/best",
        config=VideoPretrainConfig,
        task="trainers.recipes.papt.video_task:VideoPretrainingTask",
    ),
    "papt-video": Recipe(
        summary="tapt-video with an embedding for each speaker",
        config=VideoPaptConfig,
        task="trainers.recipes.papt.video_task:VideoPaptTask",
    ),
}

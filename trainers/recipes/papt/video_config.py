"""Options of `tapt-video` and `papt-video`; they need no torch.

papt-pldc is about speech. Table VIII of setpeer-emoceleb has PAPT on VideoMAE, and does not say how
it was pre-trained there. Here, VideoMAE's own pre-training continues, as HuBERT's does for speech.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shards.config import ConfigError, option
from trainers.recipes.recipe import RecipeConfig, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPretrainConfig(RecipeConfig):
    """Task-adaptive pre-training: VideoMAE's masked reconstruction continues on the corpus.

    It uses no labels.
    """

    against_class_balance: ClassVar[str | None] = "it uses no labels"
    uses_labels: ClassVar[bool] = False

    splits: tuple[str, ...] = option(help="splits whose pictures are used", default=("train",))
    held_out_share: float = option(
        help="share of each speaker's utterances that is held out for validation", default=0.05
    )
    mask_ratio: float = option(
        help="share of the places of a picture that are hidden, the same in all pictures of a "
        "clip; VideoMAE hides 0.9",
        default=0.9,
    )

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1 or not 0 < self.mask_ratio < 1:
            raise ConfigError(
                f"held_out_share, mask_ratio: got {self.held_out_share}, {self.mask_ratio}, "
                "expected shares above 0 and below 1"
            )
        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")

    def check(self, run: Run) -> None:
        """Refuse other inputs than video, and options that choose among training speakers."""
        if run.data.modality != "video":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, expected video; give "
                "--set data.modality=video, or train tapt or papt for sound"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPaptConfig(VideoPretrainConfig):
    """Personalized adaptive pre-training: `tapt-video` with an embedding for each speaker."""

    fusion: Literal["last", "first", "prefix"] = option(
        help="where the speaker's embedding enters the encoder", default="last"
    )

    def check(self, run: Run) -> None:
        """Refuse to start without an encoder, which finds the proxies of unseen speakers."""
        VideoPretrainConfig.check(self, run)
        if run.encoder.checkpoint is None:
            raise ConfigError(
                "encoder.checkpoint: must be given for papt-video; it is the original encoder, "
                "which also finds the proxies of unseen speakers (`emostream train tapt-video` "
                "makes a small one from nothing)"
            )

"""Which encoder any recipe starts from; without torch."""

from dataclasses import dataclass

from shards.config import ConfigError, option, require_at_least, require_positive, require_share


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A pretrained encoder, or the sizes of a small one that is trained from nothing."""

    checkpoint: str | None = option(
        help="HuBERT, wav2vec 2.0, WavLM or data2vec audio, VideoMAE for video, hub name or "
        "folder, or what a run exported (RUN/best); default: the small encoder",
        default=None,
    )
    revision: str | None = option(help="full commit of a hub checkpoint", default=None)
    freeze_front_end: bool | None = option(
        help="do not train the convolutions of a pretrained encoder (of VideoMAE: the patch "
        "embedding); default: true, but false in tapt and papt, which go on with HuBERT's own "
        "pre-training",
        default=None,
    )
    freeze_layers: int = option(help="lowest transformer layers that are not trained", default=0)
    hidden_size: int = option(help="width of the small encoder", default=64)
    num_layers: int = option(help="transformer layers of the small encoder", default=3)
    num_heads: int = option(help="attention heads of the small encoder", default=4)
    intermediate_size: int = option(help="feed-forward width of the small encoder", default=256)
    dropout: float = option(help="dropout of the small encoder", default=0.1)
    num_frames: int = option(help="pictures of an utterance in the small video encoder", default=16)
    image_size: int = option(help="side of these pictures in pixels", default=64)
    patch_size: int = option(
        help="side of the squares they are cut into; two pictures deep", default=16
    )

    def freezes_front_end(self, *, by_default: bool) -> bool:
        """Whether the convolutions of a pretrained encoder stay as they are; `by_default` is the
        recipe's word.
        """
        if self.checkpoint is None:
            return False

        return by_default if self.freeze_front_end is None else self.freeze_front_end

    def __post_init__(self) -> None:
        require_positive(self, "hidden_size", "num_layers", "num_heads", "intermediate_size")
        require_share(self, "dropout")
        require_at_least(self, 0, "freeze_layers")
        require_positive(self, "num_frames", "image_size", "patch_size")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size: got {self.image_size}, expected a multiple of patch_size "
                f"{self.patch_size}"
            )
        if self.num_frames % 2:
            raise ConfigError(
                f"num_frames: got {self.num_frames}, expected an even number: patches are two deep"
            )
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size: got {self.hidden_size}, expected a multiple of {self.num_heads} "
                "heads"
            )

"""Options about the encoder that a recipe starts from. Nothing here imports torch."""

from dataclasses import dataclass

from shards.config import ConfigError, option, require_at_least, require_positive, require_share


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A pretrained encoder, or the sizes of a small one that is trained from nothing."""

    checkpoint: str | None = option(
        help="Pretrained encoder: a hub name, a folder, or the export of a run (RUN/best). It is "
        "a HuBERT, wav2vec 2.0, WavLM, data2vec, data2vec 2.0 or emotion2vec model for audio, "
        "VideoMAE for video. Without one, the small encoder is trained from nothing.",
        default=None,
    )
    revision: str | None = option(
        help="Full commit of a checkpoint on the hub; required for a hub name.", default=None
    )
    freeze_front_end: bool | None = option(
        help="Keep the convolutions of a pretrained encoder as they are (of VideoMAE: the patch "
        "embedding). If this is not set, all recipes keep them except tapt and papt, which "
        "continue HuBERT's own pre-training.",
        default=None,
    )
    freeze_layers: int = option(
        help="Number of the lowest transformer layers that are not trained; 0: all are trained.",
        default=0,
    )
    hidden_size: int = option(
        help="Width of the small encoder; a multiple of num_heads.", default=64
    )
    num_layers: int = option(help="Number of transformer layers of the small encoder.", default=3)
    num_heads: int = option(help="Number of attention heads of the small encoder.", default=4)
    intermediate_size: int = option(help="Feed-forward width of the small encoder.", default=256)
    dropout: float = option(help="Dropout probability of the small encoder.", default=0.1)
    num_frames: int = option(
        help="Number of pictures of an utterance that the small video encoder sees; an even "
        "number.",
        default=16,
    )
    image_size: int = option(
        help="Side of a picture of the small video encoder in pixels; a multiple of patch_size.",
        default=64,
    )
    patch_size: int = option(
        help="Side of the squares that the small video encoder cuts pictures into, in pixels. A "
        "patch is such a square of two pictures.",
        default=16,
    )

    def freezes_front_end(self, *, by_default: bool) -> bool:
        """Whether the convolutions of a pretrained encoder are kept as they are.

        `by_default` is what the recipe does when `freeze_front_end` is not set. The convolutions of
        the small encoder are never kept: they have learned nothing yet.
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
                f"num_frames: got {self.num_frames}, expected an even number, because a patch "
                "takes two pictures"
            )
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size: got {self.hidden_size}, expected a multiple of num_heads "
                f"{self.num_heads}"
            )

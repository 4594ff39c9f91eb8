"""Options about the encoder that a recipe starts from. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive, require_share


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A pretrained encoder, or the sizes of a small one that is trained from nothing."""

    checkpoint: str | None = option(
        help="Pretrained encoder: a hub name, a folder, or the export of a run (RUN/best). For "
        "audio: HuBERT, wav2vec 2.0, WavLM, data2vec, data2vec 2.0, emotion2vec, UniSpeech-SAT, "
        "Wav2Vec2-Conformer, SEW, w2v-BERT 2 or Whisper. For video: VideoMAE. Without one, the "
        "small encoder is trained from nothing.",
        default=None,
    )
    revision: str | None = option(
        help="Full commit of a checkpoint on the hub; required for a hub name.", default=None
    )
    freeze_front_end: bool | None = option(
        help="Keep the convolutions of a pretrained encoder as they are (of VideoMAE: the patch "
        "embedding; w2v-BERT 2 has none). If this is not set, all recipes keep them except tapt "
        "and papt, which continue HuBERT's own pre-training.",
        default=None,
    )
    freeze_layers: int = option(
        help="Number of the lowest transformer layers that are not trained; 0: all are trained.",
        default=0,
    )
    lora_rank: int = option(
        help="Rank of LoRA's matrices: a pretrained encoder keeps its weights, and only two small "
        "matrices beside each projection of the attention learn, for example of rank 8; 0: no "
        "LoRA. The export holds plain weights. Needs peft: pip install 'emostream[lora]'.",
        default=0,
    )
    lora_alpha: float = option(
        help="Strength of LoRA: what its matrices give is multiplied by lora_alpha / lora_rank.",
        default=16.0,
    )
    mask_time_probability: float = option(
        help="SpecAugment: share of the frames that hidden spans would cover in training if they "
        "did not overlap, for example 0.05; 0: no frame is hidden.",
        default=0.0,
    )
    mask_time_length: int = option(help="Number of frames in a hidden span.", default=10)
    mask_time_embedding: Literal["learned", "zero"] = option(
        help="What takes the place of hidden frames. learned: the vector that a checkpoint has for "
        "them from its pre-training, which goes on learning (not with LoRA); zero: zeros.",
        default="learned",
    )
    mask_channel_probability: float = option(
        help="SpecAugment: share of the channels, the numbers of a frame, that hidden spans would "
        "cover in training if they did not overlap. A hidden channel is zero in all frames of an "
        "utterance. 0: no channel is hidden.",
        default=0.0,
    )
    mask_channel_length: int = option(help="Number of channels in a hidden span.", default=64)
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

    @property
    def augments(self) -> bool:
        """Whether training hides frames or channels."""
        return self.mask_time_probability > 0 or self.mask_channel_probability > 0

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
        require_share(self, "dropout", "mask_time_probability", "mask_channel_probability")
        require_positive(self, "mask_time_length", "mask_channel_length")
        require_at_least(self, 0, "freeze_layers", "lora_rank")
        require_positive(self, "lora_alpha")
        require_positive(self, "num_frames", "image_size", "patch_size")

        if self.lora_rank and self.checkpoint is None:
            raise ConfigError(
                f"lora_rank: got {self.lora_rank} without encoder.checkpoint, expected 0: LoRA "
                "keeps the encoder's weights, and those of a new one have learned nothing"
            )
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

"""The sizes of an encoder of the data2vec family; the defaults are those of the published base."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PretrainedConfig

BodyName = Literal["data2vec2", "data2vec"]
FrontEndName = Literal["convolutions", "log_mel"]


class Data2VecConfig(PretrainedConfig):
    """What an encoder is made of.

    `body` is data2vec2 (ALiBi, hidden frames leave the encoder, a convolutional decoder) or
    data2vec (hidden frames become the mask embedding, a linear decoder). `front_end` is
    convolutions over the waveform (50 Hz), or log_mel (25 Hz), which small models on a CPU can
    afford. Of the `num_hidden_layers`, the first `num_prenet_layers` give no target. `normalize`
    says whether waveforms are normalized first; None leaves it to the front end: log energies keep
    the loudness.
    """

    model_type = "emostream_data2vec"

    def __init__(
        self,
        body: BodyName = "data2vec2",
        front_end: FrontEndName = "convolutions",
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_prenet_layers: int = 4,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        num_extra_tokens: int = 10,
        has_mask_embedding: bool | None = None,
        normalize: bool | None = None,
        conv_size: int = 512,
        conv_kernel: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        conv_stride: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        num_mel_bands: int = 80,
        num_position_convolutions: int = 5,
        position_kernel: int = 19,
        position_groups: int = 16,
        decoder_size: int = 384,
        num_decoder_layers: int = 4,
        decoder_kernel: int = 7,
        decoder_groups: int = 16,
        mask_noise: float = 0.01,
        dropout_probability: float = 0.1,
        layer_norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        self.body = body
        self.front_end = front_end
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_prenet_layers = num_prenet_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.num_extra_tokens = num_extra_tokens
        self.has_mask_embedding = (
            body == "data2vec" if has_mask_embedding is None else has_mask_embedding
        )
        self.normalize = front_end == "convolutions" if normalize is None else normalize
        self.conv_size = conv_size
        self.conv_kernel = list(conv_kernel)
        self.conv_stride = list(conv_stride)
        self.num_mel_bands = num_mel_bands
        self.num_position_convolutions = num_position_convolutions
        self.position_kernel = position_kernel
        self.position_groups = position_groups
        self.decoder_size = decoder_size
        self.num_decoder_layers = num_decoder_layers
        self.decoder_kernel = decoder_kernel
        self.decoder_groups = decoder_groups
        self.mask_noise = mask_noise
        self.dropout_probability = dropout_probability
        self.layer_norm_eps = layer_norm_eps
        super().__init__(**kwargs)

    @property
    def has_alibi(self) -> bool:
        """Whether attention falls off with the distance between frames."""
        return self.body == "data2vec2"

    @property
    def removes_hidden_frames(self) -> bool:
        """Whether hidden frames leave the encoder in its own pre-training."""
        return self.body == "data2vec2"

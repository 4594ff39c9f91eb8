"""Small encoders of the project's own data2vec family, with random weights."""

from typing import Any

import torch

from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_prenet_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_extra_tokens": 3,
    "conv_size": 16,
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_mel_bands": 20,
    "num_position_convolutions": 2,
    "position_kernel": 3,
    "position_groups": 2,
    "decoder_size": 16,
    "num_decoder_layers": 2,
    "decoder_kernel": 3,
    "decoder_groups": 2,
}


def own_data2vec(**changes: Any) -> Data2VecEncoder:
    """Make an encoder 32 wide, of three layers, that is the same at every call."""
    torch.manual_seed(0)
    model = Data2VecEncoder(Data2VecConfig(**(SIZES | changes)))
    # Weights as large as those of a trained model, or its layers would hardly do anything.
    for name, weight in model.body.layers.named_parameters():
        if name.endswith("weight") and weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.2)
    return model

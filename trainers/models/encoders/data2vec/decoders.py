"""What predicts the teacher's targets of hidden frames from the student's frames.

A decoder belongs to pre-training alone. It lies in a file of its own beside an exported encoder, so
that pre-training can go on from there.

Shapes: N utterances, T frames, K kept frames, D width.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shards.config import ConfigError
from trainers.models.encoders.data2vec.configuration import Data2VecConfig

DECODER_NAME = "decoder.safetensors"


class ConvolutionalDecoder(nn.Module):
    """data2vec 2.0's: noise stands for the hidden frames, and convolutions fill them in."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        width, size = config.hidden_size, config.decoder_size
        kernel, self._noise = config.decoder_kernel, config.mask_noise
        self.convolutions = nn.ModuleList(
            nn.Conv1d(
                width if number == 0 else size,
                size,
                kernel,
                padding=kernel // 2,
                groups=config.decoder_groups,
            )
            for number in range(config.num_decoder_layers)
        )
        self.projection = nn.Linear(size, width)
        self.dropout = nn.Dropout(config.dropout_probability)

    def forward(self, frames_NKD: Tensor, hide_NT: Tensor) -> Tensor:
        """Predict all frames [N, T, D] from those that are not hidden, [N, K, D]."""
        frames_NKD = self.dropout(frames_NKD)
        noise_NTD = self._noise * torch.randn(
            *hide_NT.shape, frames_NKD.shape[-1], dtype=frames_NKD.dtype, device=frames_NKD.device
        )
        hidden_NTD = noise_NTD.masked_scatter(~hide_NT.unsqueeze(-1), frames_NKD)

        for convolution in self.convolutions:
            convolved_NTD = convolution(hidden_NTD.transpose(1, 2))[..., : hide_NT.shape[1]]
            convolved_NTD = convolved_NTD.transpose(1, 2)
            convolved_NTD = F.gelu(F.layer_norm(convolved_NTD, convolved_NTD.shape[-1:]))
            # The first convolution changes the width, so nothing can be added to its output.
            is_same = convolved_NTD.shape == hidden_NTD.shape
            hidden_NTD = convolved_NTD + hidden_NTD if is_same else convolved_NTD

        return self.projection(hidden_NTD)


class LinearDecoder(nn.Module):
    """data2vec's: hidden frames are still there, and one linear layer predicts their targets."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, frames_NTD: Tensor, _: Tensor) -> Tensor:
        """Predict all frames [N, T, D]."""
        found_NTD: Tensor = self.projection(frames_NTD)
        return found_NTD


Decoder = ConvolutionalDecoder | LinearDecoder


def make_decoder(config: Data2VecConfig) -> Decoder:
    """The decoder that belongs to the body."""
    return ConvolutionalDecoder(config) if config.body == "data2vec2" else LinearDecoder(config)


def save_decoder(decoder: Decoder, folder: Path) -> None:
    """Write the decoder's weights beside its encoder, in float32."""
    weights = {
        name: value.detach().float().cpu().contiguous()
        for name, value in decoder.state_dict().items()
    }
    save_file(weights, folder / DECODER_NAME)


def load_decoder(decoder: Decoder, folder: Path) -> bool:
    """Take over the weights that lie in `folder`. Returns whether there were any.

    Raises ConfigError when they are those of another decoder.
    """
    path = folder / DECODER_NAME
    if not path.is_file():
        return False

    try:
        decoder.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ConfigError(
            f"encoder.checkpoint {folder}: {DECODER_NAME} does not fit the encoder beside it; "
            f"remove it to start with a new decoder: {error}"
        ) from error
    return True

import copy

import pytest
import torch
from torch import nn
from transformers import HubertConfig, HubertModel

from actors.inference.channels_last import ChannelsLastConv1d, avoid_layout_copies


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(1, 10, 5), (16, 3, 2), (16, 2, 2)])
def test_the_convolution_is_the_same(channels: int, kernel: int, stride: int) -> None:
    """The result equals that of nn.Conv1d, also for input that lies transposed in memory."""
    torch.manual_seed(0)
    plain = nn.Conv1d(channels, 24, kernel, stride)
    hidden = torch.randn(3, 101, channels).transpose(1, 2)

    torch.testing.assert_close(ChannelsLastConv1d(plain)(hidden), plain(hidden))


def test_a_norm_reads_the_result_as_it_lies() -> None:
    """The transpose of the result is contiguous, so that the norm needs no copy."""
    result = ChannelsLastConv1d(nn.Conv1d(8, 16, 3, 2))(torch.randn(2, 8, 50))

    assert result.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("norm", "num_replaced"), [("layer", 3), ("group", 0)])
def test_a_model_computes_the_same_as_before(norm: str, num_replaced: int) -> None:
    """Layer-norm extractors are rebuilt, group-norm extractors left alone, and no output moves."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }

    convolutions = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2)}
    config = HubertConfig(
        feat_extract_norm=norm, num_conv_pos_embeddings=16, **sizes, **convolutions
    )

    model = HubertModel(config).eval()
    rebuilt = copy.deepcopy(model)
    avoid_layout_copies(rebuilt)
    assert (
        sum(isinstance(module, ChannelsLastConv1d) for module in rebuilt.modules()) == num_replaced
    )

    sound = torch.randn(2, 4000)
    with torch.inference_mode():
        expected, found = (one(sound).last_hidden_state for one in (model, rebuilt))
    torch.testing.assert_close(found, expected)

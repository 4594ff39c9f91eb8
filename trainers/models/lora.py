"""LoRA by peft: small matrices beside the attention's weights learn, all other weights stay.

Low-rank adaptation (Hu et al. 2021, Eq. 3): a projection W becomes W + (alpha / rank) B A, with A
[rank, D] and B [D, rank]. B begins at zero, so training begins at the pretrained encoder. An export
holds the sums in place of the parts and opens without peft.

WavLM's attention hands its weights to torch instead of calling its projections, so that matrices
beside them would neither be heard nor learn. It is given an attention that calls them; the result
is the same. Training its feed-forward layers instead was rejected: others adapt the attention, and
figures would not compare.

Shapes: N utterances, T frames, D width.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder

# By the model type: the projections of the attention in each transformer layer, as a pattern of
# their names behind that of the layer.
_PLAIN = r"(attention|self_attn)\.(q_proj|k_proj|v_proj|out_proj)"
_CONFORMER = r"self_attn\.linear_(q|k|v|out)"
TARGETS: Mapping[str, str] = {
    "emostream_sequence": r"(query_key_value|projection)",
    "hubert": _PLAIN,
    "wav2vec2": _PLAIN,
    "wavlm": _PLAIN,
    "data2vec-audio": _PLAIN,
    "unispeech-sat": _PLAIN,
    "sew": _PLAIN,
    "whisper": _PLAIN,
    "wav2vec2-conformer": _CONFORMER,
    "wav2vec2-bert": _CONFORMER,
    "videomae": r"attention\.(attention\.(query|key|value)|output\.dense)",
}


def attach_lora(encoder: LayerwiseEncoder, *, rank: int, alpha: float) -> None:
    """Put LoRA's matrices beside the attention of every layer, and stop training all other weights.

    Raises ConfigError when peft is not installed, or for a family without targets.
    """
    family = encoder.model.config.model_type
    if family not in TARGETS:
        raise ConfigError(
            f"encoder.lora_rank: got {rank} for a {family} model, expected 0, or one of "
            f"{', '.join(TARGETS)}"
        )

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"encoder.lora_rank: got {rank}, but peft is missing; pip install 'emostream[lora]'"
        ) from error

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=rf"(.*\.)?layers?\.\d+\.{TARGETS[family]}",
    )
    inject_adapter_in_model(config, encoder.model)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)

    if family == "wavlm":
        layers: Any = encoder.layers
        for layer in layers:
            layer.attention.torch_multi_head_self_attention = partial(_attend, layer.attention)


def merge_lora(encoder: LayerwiseEncoder) -> None:
    """Add LoRA's matrices to the weights beside them, and take the matrices away."""
    for parent, name, module in list(_adapted(encoder)):
        module.merge()
        setattr(parent, name, module.get_base_layer())


def _adapted(encoder: LayerwiseEncoder) -> Iterator[tuple[nn.Module, str, Any]]:
    """The projections that have LoRA's matrices, with the modules and names that hold them."""
    from peft.tuners.lora import LoraLayer

    for parent in encoder.model.modules():
        for name, module in parent.named_children():
            if isinstance(module, LoraLayer):
                yield parent, name, module


def _attend(
    attention: Any, hidden_NTD: Tensor, mask_NT: Tensor | None, bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention with its gated position bias, [N H, T, T] for H heads, by projections."""
    query, key, value = (
        project(hidden_NTD).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )

    bias_NHTT = bias.view(len(hidden_NTD), attention.num_heads, *bias.shape[1:]).to(query.dtype)
    if mask_NT is not None:
        bias_NHTT = bias_NHTT.masked_fill(mask_NT.ne(1)[:, None, None, :], float("-inf"))

    attended = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias_NHTT,
        dropout_p=attention.dropout if attention.training else 0.0,
    )
    return attention.out_proj(attended.transpose(1, 2).flatten(2)), None

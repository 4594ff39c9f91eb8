"""Translates the weights of published files into those of `Data2VecEncoder`.

Three layouts are known: fairseq's of data2vec 2.0 and emotion2vec, FunASR's of emotion2vec+ (the
same names, some behind `d2v_model.`, and a classifier `proj`), and transformers' of data2vec audio.
Sizes follow from shapes, so that every published size fits. A name that is not known is refused: a
weight that is left out would make another model.

Shapes: D width, C classes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shards.config import ConfigError
from trainers.models.encoders.data2vec.configuration import Data2VecConfig

# The classes of emotion2vec+, as its files number them.
EMOTION2VEC_PLUS_CLASSES = (
    "angry",
    "disgusted",
    "fearful",
    "happy",
    "neutral",
    "other",
    "sad",
    "surprised",
    "unknown",
)
# FunASR gives no probability to classes that are named so.
UNUSED_CLASS = "unuse"

_AUDIO = r"modality_encoders\.AUDIO\."
_LAYER_PARTS = {
    "attn.qkv": "query_key_value",
    "attn.proj": "projection",
    "norm1": "attention_norm",
    "mlp.fc1": "feed_forward.0",
    "mlp.fc2": "feed_forward.2",
    "norm2": "output_norm",
}
_FRONT = "front_end.convolutions.{}"
_FEED_FORWARD = "body.layers.{}.feed_forward"
_RENAMED = {
    _AUDIO + r"local_encoder\.conv_layers\.(\d+)\.0\.(weight)": f"{_FRONT}.convolution.{{}}",
    _AUDIO + r"local_encoder\.conv_layers\.(\d+)\.2\.1\.(\w+)": f"{_FRONT}.norm.{{}}",
    _AUDIO + r"project_features\.1\.(\w+)": "front_end.norm.{}",
    _AUDIO + r"project_features\.2\.(\w+)": "front_end.projection.{}",
    _AUDIO + r"context_encoder\.norm\.(\w+)": "body.norm.{}",
    _AUDIO + r"decoder\.blocks\.(\d+)\.0\.(\w+)": "decoder.convolutions.{}.{}",
    _AUDIO + r"decoder\.proj\.(\w+)": "decoder.projection.{}",
    r"proj\.(\w+)": "classifier.{}",
}
_THEIR_LAYER = r"encoder\.layers\.(\d+)\."
_THEIR_FRONT = r"feature_extractor\.conv_layers\.(\d+)\."
_OF_TRANSFORMERS = {
    _THEIR_FRONT + r"conv\.(weight)": f"{_FRONT}.convolution.{{}}",
    _THEIR_FRONT + r"layer_norm\.(\w+)": f"{_FRONT}.norm.{{}}",
    r"feature_projection\.layer_norm\.(\w+)": "front_end.norm.{}",
    r"feature_projection\.projection\.(\w+)": "front_end.projection.{}",
    r"encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.(\w+)": "body.positions.convolutions.{}.{}",
    r"encoder\.layer_norm\.(\w+)": "body.norm.{}",
    _THEIR_LAYER + r"attention\.out_proj\.(\w+)": "body.layers.{}.projection.{}",
    _THEIR_LAYER + r"layer_norm\.(\w+)": "body.layers.{}.attention_norm.{}",
    _THEIR_LAYER + r"feed_forward\.intermediate_dense\.(\w+)": f"{_FEED_FORWARD}.0.{{}}",
    _THEIR_LAYER + r"feed_forward\.output_dense\.(\w+)": f"{_FEED_FORWARD}.2.{{}}",
    _THEIR_LAYER + r"final_layer_norm\.(\w+)": "body.layers.{}.output_norm.{}",
}
_SEPARATE = re.compile(_THEIR_LAYER + r"attention\.([qkv])_proj\.(\w+)")
_LAYER = re.compile(rf"(?:({_AUDIO}context_encoder)\.)?blocks\.(\d+)\.([\w.]+)\.(weight|bias)")
_POSITION = re.compile(_AUDIO + r"relative_positional_encoder\.(\d+)\.0\.(weight|bias)")
_PREFIXES = ("module.", "d2v_model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """What a published file holds, by the names of this project.

    `decoder` and `classifier` are None where the file has none; `classes` name the classifier's.
    """

    config: Data2VecConfig
    encoder: Mapping[str, Tensor]
    decoder: Mapping[str, Tensor] | None = None
    classifier: Mapping[str, Tensor] | None = None
    classes: Sequence[str] = ()


def from_fairseq(
    weights: Mapping[str, Any], classes: Sequence[str] = EMOTION2VEC_PLUS_CLASSES
) -> PublishedModel:
    """Translate the weights of a file of data2vec 2.0, emotion2vec or emotion2vec+.

    `weights` are those by name, as fairseq keeps them under `model`; the teacher, `_ema`, is left
    out. `classes` name the classes of the file's classifier, if it has one; those that FunASR does
    not use (`unuse...`) are left out. Raises ConfigError for a name that is not known, and for
    sizes that no encoder here has.
    """
    plain = {_without_prefix(name): value for name, value in weights.items() if name != "_ema"}
    renamed = dict(_renamed(plain))
    parts = {
        part: {
            name.removeprefix(f"{part}."): value
            for name, value in renamed.items()
            if name.startswith(f"{part}.")
        }
        for part in ("decoder", "classifier")
    }
    encoder = {
        name: value for name, value in renamed.items() if name.startswith(("front_end.", "body."))
    }
    config = _config_of(encoder, parts["decoder"], _num_prenet_layers(plain))

    classifier, used = _used_classes(parts["classifier"], classes)
    return PublishedModel(
        config=config,
        encoder=encoder,
        decoder=parts["decoder"] or None,
        classifier=classifier or None,
        classes=used,
    )


def from_transformers(weights: Mapping[str, Tensor], config: Any) -> PublishedModel:
    """Translate the weights of transformers' `Data2VecAudioModel` of this configuration.

    Raises ConfigError for a name that is not known, such as that of an adapter.
    """
    encoder: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name == "masked_spec_embed":
            encoder["body.mask_embedding"] = value
        elif not _SEPARATE.fullmatch(name):
            encoder[_translated(name, _OF_TRANSFORMERS)] = value

    for number in range(config.num_hidden_layers):
        for kind in ("weight", "bias"):
            names = [f"encoder.layers.{number}.attention.{one}_proj.{kind}" for one in "qkv"]
            encoder[f"body.layers.{number}.query_key_value.{kind}"] = torch.cat(
                [weights[name] for name in names]
            )

    return PublishedModel(
        config=Data2VecConfig(
            body="data2vec",
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_prenet_layers=config.num_hidden_layers // 3,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            num_extra_tokens=0,
            has_mask_embedding="masked_spec_embed" in weights,
            conv_size=config.conv_dim[-1],
            conv_kernel=config.conv_kernel,
            conv_stride=config.conv_stride,
            num_position_convolutions=config.num_conv_pos_embeddings,
            position_kernel=config.conv_pos_kernel_size,
            position_groups=config.num_conv_pos_embedding_groups,
            layer_norm_eps=config.layer_norm_eps,
        ),
        encoder=encoder,
    )


def _renamed(plain: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    num_prenet = _num_prenet_layers(plain)

    for name, value in plain.items():
        if layer := _LAYER.fullmatch(name):
            prenet, number, part, kind = layer.groups()
            if part not in _LAYER_PARTS:
                raise _unknown(name)
            place = int(number) + (0 if prenet else num_prenet)
            yield f"body.layers.{place}.{_LAYER_PARTS[part]}.{kind}", value
        elif position := _POSITION.fullmatch(name):
            # The first of the sequence only exchanges axes.
            yield f"body.positions.convolutions.{int(position[1]) - 1}.{position[2]}", value
        elif re.fullmatch(_AUDIO + "alibi_scale", name):
            yield "body.alibi.scale", value.flatten()
        elif re.fullmatch(_AUDIO + "extra_tokens", name):
            yield "body.tokens", value[0]
        else:
            yield _translated(name, _RENAMED), value


def _translated(name: str, table: Mapping[str, str]) -> str:
    for pattern, template in table.items():
        if found := re.fullmatch(pattern, name):
            return template.format(*found.groups())
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"got a weight {name!r}, expected only those of data2vec, data2vec 2.0, emotion2vec or "
        "emotion2vec+ for sound; this file holds another model"
    )


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _num_prenet_layers(plain: Mapping[str, Tensor]) -> int:
    found = (_LAYER.fullmatch(name) for name in plain)
    return 1 + max((int(layer[2]) for layer in found if layer and layer[1]), default=-1)


def _config_of(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], num_prenet_layers: int
) -> Data2VecConfig:
    """The configuration that the shapes tell of; of strides and eps, they tell nothing."""
    defaults = Data2VecConfig()
    try:
        width = len(encoder["body.norm.weight"])
        num_heads = len(encoder["body.alibi.scale"])
        intermediate = len(encoder["body.layers.0.feed_forward.0.weight"])
        position = encoder["body.positions.convolutions.0.weight"]
        conv_size = len(encoder["front_end.norm.weight"])
    except KeyError as error:
        raise ConfigError(
            f"got a file without {error}, expected all weights of data2vec 2.0 or emotion2vec"
        ) from error

    convolutions = _counted(encoder, "front_end.convolutions.{}.convolution.weight")
    if len(convolutions) != len(defaults.conv_stride):
        raise ConfigError(
            f"got {len(convolutions)} convolutions in the front end, expected "
            f"{len(defaults.conv_stride)}, whose strides are known"
        )

    sizes: dict[str, Any] = {}
    if decoder:
        layers = _counted(decoder, "convolutions.{}.weight")
        sizes = {
            "decoder_size": layers[0].shape[0],
            "num_decoder_layers": len(layers),
            "decoder_kernel": layers[0].shape[2],
            "decoder_groups": width // layers[0].shape[1],
        }
    tokens = encoder.get("body.tokens")
    return Data2VecConfig(
        hidden_size=width,
        num_hidden_layers=len(_counted(encoder, "body.layers.{}.attention_norm.weight")),
        num_prenet_layers=num_prenet_layers,
        num_attention_heads=num_heads,
        intermediate_size=intermediate,
        num_extra_tokens=0 if tokens is None else len(tokens),
        conv_size=conv_size,
        conv_kernel=[weight.shape[2] for weight in convolutions],
        num_position_convolutions=len(_counted(encoder, "body.positions.convolutions.{}.weight")),
        position_kernel=position.shape[2],
        position_groups=width // position.shape[1],
        **sizes,
    )


def _counted(weights: Mapping[str, Tensor], template: str) -> list[Tensor]:
    """The weights that `template` names with 0, 1 and so on."""
    found: list[Tensor] = []
    while (name := template.format(len(found))) in weights:
        found.append(weights[name])
    return found


def _used_classes(
    classifier: Mapping[str, Tensor], classes: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if not classifier:
        return {}, ()

    if len(classes) != len(classifier["bias"]):
        raise ConfigError(
            f"got a classifier of {len(classifier['bias'])} classes and {len(classes)} names, "
            "expected one name for each class; give the names in the order of the model"
        )

    used = [place for place, name in enumerate(classes) if not name.startswith(UNUSED_CLASS)]
    # Without its row, a class has no part in the softmax, as if its logit were minus infinity.
    rows = {kind: values[used] for kind, values in classifier.items()}
    return rows, tuple(classes[place] for place in used)

"""Weights in the published layouts become an encoder that gives the same output."""

import re

import pytest
import torch
from torch import Tensor
from transformers import Data2VecAudioConfig, Data2VecAudioModel

from shards.config import ConfigError
from tests.worlds.encoders import own_data2vec
from trainers.models.encoders.data2vec.decoders import make_decoder
from trainers.models.encoders.data2vec.encoder import (
    Data2VecEncoder,
    Data2VecForAudioClassification,
)
from trainers.models.encoders.data2vec.published import (
    EMOTION2VEC_PLUS_CLASSES,
    from_fairseq,
    from_transformers,
)

CONVOLUTIONS = {
    "conv_kernel": (4, 3, 3, 2, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}
AUDIO = "modality_encoders.AUDIO"


def in_published_layout(model: Data2VecEncoder, decoder: torch.nn.Module) -> dict[str, Tensor]:
    """Name the weights as fairseq does, in its shapes."""
    parts = {
        "query_key_value": "attn.qkv",
        "projection": "attn.proj",
        "attention_norm": "norm1",
        "feed_forward.0": "mlp.fc1",
        "feed_forward.2": "mlp.fc2",
        "output_norm": "norm2",
    }
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if number := re.match(r"body\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            place, prenet = int(number[1]), model.config.num_prenet_layers
            where = f"{AUDIO}.context_encoder.blocks.{place}"
            if place >= prenet:
                where = f"blocks.{place - prenet}"
            found[f"{where}.{parts[number[2]]}.{number[3]}"] = value
        elif position := re.match(r"body\.positions\.convolutions\.(\d+)\.(\w+)", name):
            where = f"{AUDIO}.relative_positional_encoder.{int(position[1]) + 1}.0"
            found[f"{where}.{position[2]}"] = value
        elif layer := re.match(r"front_end\.convolutions\.(\d+)\.(convolution|norm)\.(\w+)", name):
            where = "0" if layer[2] == "convolution" else "2.1"
            found[f"{AUDIO}.local_encoder.conv_layers.{layer[1]}.{where}.{layer[3]}"] = value

    others = {
        "front_end.norm": f"{AUDIO}.project_features.1",
        "front_end.projection": f"{AUDIO}.project_features.2",
        "body.norm": f"{AUDIO}.context_encoder.norm",
    }
    state = model.state_dict()
    for mine, theirs in others.items():
        for kind in ("weight", "bias"):
            found[f"{theirs}.{kind}"] = state[f"{mine}.{kind}"]
    found[f"{AUDIO}.alibi_scale"] = state["body.alibi.scale"].reshape(1, 1, -1, 1, 1)
    found[f"{AUDIO}.extra_tokens"] = state["body.tokens"].unsqueeze(0)

    for name, value in decoder.state_dict().items():
        convolution = re.match(r"convolutions\.(\d+)\.(\w+)", name)
        theirs = name.replace("projection", "proj")
        if convolution:
            theirs = f"blocks.{convolution[1]}.0.{convolution[2]}"
        found[f"{AUDIO}.decoder.{theirs}"] = value
    return found


def published() -> tuple[Data2VecEncoder, torch.nn.Module, dict[str, Tensor]]:
    model = own_data2vec(**CONVOLUTIONS).eval()
    decoder = make_decoder(model.config).eval()
    return model, decoder, in_published_layout(model, decoder)


def test_a_file_of_fairseq_gives_the_same_output() -> None:
    """The sizes are found from the shapes, and the frames are equal; the teacher is left out."""
    model, decoder, weights = published()
    found = from_fairseq(weights | {"_ema": {"blocks.0.norm1.weight": torch.zeros(1)}})
    assert found.classifier is None
    assert found.decoder is not None

    again = Data2VecEncoder(found.config).eval()
    again.load_state_dict(found.encoder)
    sounds, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    with torch.inference_mode():
        assert torch.equal(again(sounds, lengths)[0], model(sounds, lengths)[0])
    assert found.config.num_prenet_layers == 1

    rebuilt = make_decoder(found.config)
    rebuilt.load_state_dict(found.decoder)
    for name, value in decoder.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[name], value)


def test_a_file_of_funasr_becomes_a_classifier() -> None:
    """The encoder stands behind a prefix; a class that is not used has no row."""
    model, _, weights = published()
    head = {"proj.weight": torch.randn(9, 32), "proj.bias": torch.randn(9)}
    names = [*EMOTION2VEC_PLUS_CLASSES[:8], "unuse_0"]
    found = from_fairseq(
        {f"d2v_model.{name}": value for name, value in weights.items()} | head, names
    )
    assert found.classifier is not None
    assert found.classes == EMOTION2VEC_PLUS_CLASSES[:8]

    config = found.config
    config.num_labels = 8
    classifier = Data2VecForAudioClassification(config).eval()
    classifier.encoder.load_state_dict(found.encoder)
    torch.nn.init.eye_(classifier.projector.weight)
    torch.nn.init.zeros_(classifier.projector.bias)
    classifier.classifier.load_state_dict(found.classifier)

    sounds = torch.randn(1, 4000)
    with torch.inference_mode():
        pooled = model(sounds, torch.tensor([4000]))[0].mean(dim=1)
        logits = pooled @ head["proj.weight"].T + head["proj.bias"]
        logits[:, 8] = -torch.inf
        theirs = logits.softmax(dim=1)
        mine = classifier(sounds).logits.softmax(dim=1)
    torch.testing.assert_close(mine, theirs[:, :8])
    assert not theirs[:, 8].any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks.0.norm3.weight": torch.zeros(1)}, r"got a weight 'blocks\.0\.norm3\.weight'"),
        ({"recon_proj.weight": torch.zeros(1)}, r"got a weight 'recon_proj\.weight'"),
        (
            {"proj.weight": torch.zeros(5, 32), "proj.bias": torch.zeros(5)},
            "a classifier of 5 classes and 9 names",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(changed: dict[str, Tensor], message: str) -> None:
    """A weight without a place here is named, and so is a classifier without names."""
    with pytest.raises(ConfigError, match=message):
        from_fairseq(published()[2] | changed)


def test_a_file_without_some_weights_is_refused() -> None:
    """A file without ALiBi is no file of data2vec 2.0."""
    weights = published()[2]
    del weights[f"{AUDIO}.alibi_scale"]
    with pytest.raises(ConfigError, match=r"without 'body\.alibi\.scale'"):
        from_fairseq(weights)


def test_data2vec_is_that_of_transformers() -> None:
    """An encoder with the weights of transformers' own gives the same frames."""
    torch.manual_seed(0)
    theirs = Data2VecAudioModel(
        Data2VecAudioConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            conv_dim=(16, 16),
            conv_kernel=(10, 3),
            conv_stride=(5, 2),
            num_feat_extract_layers=2,
            conv_pos_kernel_size=3,
            num_conv_pos_embeddings=2,
            num_conv_pos_embedding_groups=2,
        )
    ).eval()
    found = from_transformers(theirs.state_dict(), theirs.config)
    mine = Data2VecEncoder(found.config).eval()
    mine.load_state_dict(found.encoder)

    sounds = torch.randn(2, 2400)
    hide = torch.zeros(2, 239, dtype=torch.bool)
    hide[:, 20:60] = True
    with torch.inference_mode():
        frames, _ = mine(sounds, torch.tensor([2400, 2400]), None, hide)
        theirs.config.apply_spec_augment = True
        expected = theirs(sounds, mask_time_indices=hide).last_hidden_state
    torch.testing.assert_close(frames, expected, rtol=1e-4, atol=1e-5)

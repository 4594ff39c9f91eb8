"""A small checkpoint in the layout of 3loi/SER-Odyssey-Baseline-WavLM-Categorical loads as is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForAudioClassification, WavLMConfig, WavLMModel

from trainers.models.classifiers.odyssey import OdysseyClassifier, OdysseyConfig
from trainers.models.encoders.registry import register_models

WIDTH = 32
MEAN, STD = -8.278621631819787e-05, 0.08485510250851999
LABELS = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
PUBLISHED_CONFIG = {
    "architectures": ["SERModel"],
    "auto_map": {
        "AutoConfig": "pipeline_utils.SERConfig",
        "AutoModelForAudioClassification": "pipeline_utils.SERModel",
    },
    "classifier_dropout_prob": 0.5,
    "classifier_hidden_layers": 1,
    "hidden_size": WIDTH,
    "id2label": {str(index): label for index, label in enumerate(LABELS)},
    "label2id": {label: index for index, label in enumerate(LABELS)},
    "mean": MEAN,
    "model_type": "ser",
    "num_attention_heads": 2,
    "num_classes": 8,
    "num_hidden_layers": 2,
    "sampling_rate": 16000,
    "ssl_type": "microsoft/wavlm-large",
    "std": STD,
    "torch_dtype": "float32",
}


@pytest.fixture(scope="module")
def backbone() -> WavLMModel:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 4 * WIDTH,
    }

    return WavLMModel(
        WavLMConfig(**sizes, feat_extract_norm="layer", do_stable_layer_norm=True)
    ).eval()


@pytest.fixture(scope="module")
def weights(backbone: WavLMModel) -> dict[str, torch.Tensor]:
    """Weights of the published names and shapes, with weight norm under its older names."""
    older = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    tensors = {}
    for name, tensor in backbone.state_dict().items():
        for new, old in older.items():
            name = name.replace(new, old)
        tensors[f"ssl_model.{name}"] = tensor.clone()

    shapes = {
        "pool_model.sap_linear.weight": (WIDTH, WIDTH),
        "pool_model.sap_linear.bias": (WIDTH,),
        "pool_model.attention": (WIDTH, 1),
        "ser_model.fc.0.0.weight": (WIDTH, 2 * WIDTH),
        "ser_model.fc.0.0.bias": (WIDTH,),
        "ser_model.fc.0.1.weight": (WIDTH,),
        "ser_model.fc.0.1.bias": (WIDTH,),
        "ser_model.out.0.weight": (8, WIDTH),
        "ser_model.out.0.bias": (8,),
    }

    generator = torch.Generator().manual_seed(1)
    return tensors | {
        name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odyssey")
    (folder / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> OdysseyClassifier:
    register_models()
    loaded, report = AutoModelForAudioClassification.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return loaded.eval()


def test_published_layout_loads_without_remote_code(model: OdysseyClassifier) -> None:
    """Every published weight finds its place, although config.json points at code of its own."""
    assert isinstance(model, OdysseyClassifier)
    assert model.config.id2label[6] == "Contempt"


@torch.inference_mode()
def test_head_against_numpy(
    model: OdysseyClassifier, backbone: WavLMModel, weights: dict[str, torch.Tensor]
) -> None:
    """Logits equal the pooling and the dense head written out in numpy over WavLM's own frames."""
    waveform = 0.1 * torch.randn(1, 9_000, generator=torch.Generator().manual_seed(2))
    frames = backbone((waveform - MEAN) / (STD + 1e-6)).last_hidden_state[0].double().numpy()
    numbers = {name: tensor.double().numpy() for name, tensor in weights.items()}

    hidden = np.tanh(
        frames @ numbers["pool_model.sap_linear.weight"].T + numbers["pool_model.sap_linear.bias"]
    )

    attention = np.exp(hidden @ numbers["pool_model.attention"])
    attention /= attention.sum()
    mean = (attention * frames).sum(axis=0)
    spread = np.sqrt(np.maximum((attention * frames**2).sum(axis=0) - mean**2, 1e-5))

    dense = (
        numbers["ser_model.fc.0.0.weight"] @ np.concatenate([mean, spread])
        + numbers["ser_model.fc.0.0.bias"]
    )
    normed = (dense - dense.mean()) / np.sqrt(dense.var() + 1e-5)
    active = np.maximum(
        normed * numbers["ser_model.fc.0.1.weight"] + numbers["ser_model.fc.0.1.bias"], 0
    )

    expected = numbers["ser_model.out.0.weight"] @ active + numbers["ser_model.out.0.bias"]
    np.testing.assert_allclose(model(waveform).logits[0], expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("num_samples", [4_000, 4_081, 4_399])
def test_padding_has_no_influence(model: OdysseyClassifier, num_samples: int) -> None:
    """Padding has no influence even where the published rounding would let in one frame of it."""
    waveform = 0.1 * torch.randn(1, num_samples, generator=torch.Generator().manual_seed(3))
    batch = torch.zeros(2, 8_000)
    batch[0, :num_samples] = waveform[0]
    batch[1] = 0.1
    mask = (torch.arange(8_000) < torch.tensor([[num_samples], [8_000]])).long()
    torch.testing.assert_close(
        model(batch, attention_mask=mask).logits[:1], model(waveform).logits, rtol=0, atol=1e-4
    )


def test_another_backbone_is_refused() -> None:
    """Only WavLM large was published, and another model would get random weights."""
    with pytest.raises(
        ValueError, match=r"ssl_type: got 'microsoft/wavlm-base'.*microsoft/wavlm-large"
    ):
        OdysseyConfig(ssl_type="microsoft/wavlm-base").backbone()


def test_wavlm_large_has_the_published_number_of_parameters() -> None:
    """The backbone has 315.4 million parameters (the WavLM paper says 316 million)."""
    with torch.device("meta"):
        size = sum(
            parameter.numel() for parameter in WavLMModel(OdysseyConfig().backbone()).parameters()
        )
    assert size == pytest.approx(315.45e6, rel=1e-3)

"""Every named configuration loads, and states what the papers state."""

from typing import Any

import pytest

from shards.config_files import read_config
from shards.config_values import from_mapping
from tests import ROOT
from trainers.config import TrainConfig
from trainers.recipes.named_configs import named_configs
from trainers.resuming import resolved_options

NAMES = tuple(named_configs())

# papt-pldc, section 5, and HuBERT's recipe for the large model.
PAPT: dict[str, Any] = {
    "recipe": "papt",
    "engine.num_epochs": 10,
    "engine.learning_rate": 1e-5,
    "engine.schedule": "linear",
    "engine.warmup_share": 0.05,
    "engine.betas": [0.9, 0.98],
    "engine.epsilon": 1e-6,
    "engine.weight_decay": 0.01,
    "engine.clip_norm": 1.0,
    "model.mask_probability": 0.8,
    "model.mask_length": 10,
    "model.min_spans": 2,
    "model.projection_size": 768,
    "model.temperature": 0.1,
    "model.features_penalty": 10.0,
    "model.front_end_gradient": 1.0,
    "model.encoder_dropout": 0.0,
    "model.label_layer": 9,
    "model.num_labels": 500,
    "model.min_samples": 32_000,
    "model.max_samples": 250_000,
    "model.splits": ["train", "validation", "test"],
    "model.fusion": "last",
    "encoder.checkpoint": "facebook/hubert-large-ll60k",
    "model.label_encoder": "facebook/hubert-base-ls960",
}
PAPT_FINETUNE: dict[str, Any] = {
    "recipe": "finetune",
    "engine.num_epochs": 10,
    "engine.learning_rate": 5e-5,
    "engine.weight_decay": 0.0,
    "model.head": "interpreter",
    "model.head_dropout": 0.1,
    "data.target.kind": "values",
    "data.target.values": ["arousal", "valence"],
}
# multimodal-adaptive-pretraining, section IV.
MULTIMODAL: dict[str, Any] = {
    "recipe": "multimodal",
    "engine.num_epochs": 100,
    "engine.learning_rate": 1e-5,
    "engine.weight_decay": 0.0,
    "data.utterances.max_utterances": 32,
    "model.acoustics_weight": 1.0,
    "model.sentiment_weight": 0.5,
    "model.face_weight": 1.0,
    "model.held_out_share": 0.15,
    "model.held_out": "utterance",
}
MULTIMODAL_FINETUNE: dict[str, Any] = {
    "recipe": "finetune",
    "encoder.checkpoint": "facebook/wav2vec2-base",
    "encoder.freeze_front_end": True,
    "engine.num_epochs": 20,
    "engine.learning_rate": 1e-5,
    "engine.weight_decay": 0.0,
    "data.utterances.max_utterances": 32,
    "model.head": "two_layer",
}
# setpeer-emoceleb, section V-A.
HUBERT: dict[str, Any] = {
    "recipe": "finetune",
    "engine.num_epochs": 100,
    "engine.learning_rate": 3e-5,
    "engine.weight_decay": 1e-4,
    "engine.clip_norm": 1.0,
    "encoder.checkpoint": "facebook/hubert-base-ls960",
    "data.target.classes": ["neutral", "anger", "happiness", "surprise"],
}
SETPEER = HUBERT | {
    "recipe": "setpeer",
    "data.sets.num_sets": 8,
    "data.sets.set_size": 8,
    "model.code_width": 64,
    "model.num_prefixes": 4,
    "model.num_codes": 512,
    "model.classification_weight": 1.0,
    "model.contrastive_weight": 0.1,
    "model.vq_weight": 0.1,
    "model.fusion": "prefix",
    "model.quantized": True,
}
LATER = SETPEER | {"encoder.checkpoint": "runs/table7/best"}
STATED: dict[str, dict[str, Any]] = {
    "multimodal/table1": MULTIMODAL,
    "multimodal/table1-finetune": MULTIMODAL_FINETUNE,
    "papt/table2": PAPT,
    "papt/table4-first": PAPT | {"model.fusion": "first"},
    "papt/table4-prefix": PAPT | {"model.fusion": "prefix"},
    "papt/table2-finetune": PAPT_FINETUNE,
    "papt/table2-weighting": PAPT_FINETUNE
    | {"recipe": "weighting", "model.functionals": "compare"},
    "papt/figure1": PAPT_FINETUNE
    | {"encoder.checkpoint": "facebook/hubert-base-ls960", "data.target.values": ["valence"]},
    # two-stage-aver, section V-D; the sizes are of V-D too, and defaults.
    "two-stage/table1": {
        "recipe": "two-stage",
        "engine.num_epochs": 50,
        "engine.learning_rate": 1e-5,
        "engine.weight_decay": 5e-7,
        "engine.betas": [0.95, 0.999],
        "data.utterances.max_utterances": 32,
        "data.target.kind": "ratings",
        "data.target.stimulus": "audiovisual",
        "model.hidden_size": 512,
        "model.num_layers": 3,
        "model.num_heads": 8,
        "model.num_shared_layers": 2,
        "model.class_weights": "balanced",
    },
    "recognition/table7-hubert": HUBERT,
    "recognition/table7": SETPEER,
    "recognition/table7-msp-podcast-4": LATER | {"data.target.unknown": "drop"},
    "recognition/table7-msp-podcast-8": LATER
    | {
        "data.target.classes": [
            "neutral",
            "happiness",
            "sadness",
            "anger",
            "surprise",
            "fear",
            "disgust",
            "contempt",
        ]
    },
    "recognition/table8": SETPEER
    | {"encoder.checkpoint": "videomae-small", "data.modality": "video"},
    "recognition/table10-no-nce": SETPEER
    | {"encoder.checkpoint": "runs/table7-no-nce/best", "model.contrastive_weight": 0.0},
    "recognition/table10-no-vq": SETPEER
    | {"encoder.checkpoint": "runs/table7-no-vq/best", "model.quantized": False},
    "recognition/table10-addition": SETPEER
    | {
        "encoder.checkpoint": "runs/table7-addition/best",
        "model.fusion": "addition",
        "model.num_prefixes": 1,
    },
    "recognition/table10-cross-attention": SETPEER
    | {
        "encoder.checkpoint": "runs/table7-cross-attention/best",
        "model.fusion": "cross_attention",
    },
}


def loaded(name: str, **given: Any) -> TrainConfig:
    values = read_config(name, named_configs())
    # The models of one table differ in these, so the user gives them.
    given |= {"model": {"inputs": "both"}} if values["recipe"] == "two-stage" else {}
    given |= {"targets": "predictions"} if values["recipe"] == "multimodal" else {}
    return from_mapping(TrainConfig, values | {"shards": "*.tar", "out": "run"} | given)


def test_every_configuration_is_checked_here() -> None:
    """No configuration comes without its values in this test."""
    assert set(NAMES) == set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_a_configuration_states_what_the_paper_states(name: str) -> None:
    """Each value is the paper's, with all defaults filled in."""
    found = dict(resolved_options(loaded(name)))
    assert {option: found[option] for option in STATED[name]} == STATED[name]


def test_tapt_takes_the_configuration_of_papt() -> None:
    """The baseline of the same table differs in the recipe alone."""
    before, now = (
        dict(resolved_options(config))
        for config in (loaded("papt/table2"), loaded("papt/table2", recipe="tapt"))
    )
    assert {name for name in before if before[name] != now.get(name)} == {"recipe", "model.fusion"}


@pytest.mark.parametrize("name", NAMES)
def test_the_docs_list_every_configuration(name: str) -> None:
    """A reader of the docs finds each by its name."""
    text = (ROOT / "docs" / "paper-tables.md").read_text(encoding="utf-8")
    assert f"{name}`" in text or f"{name} " in text

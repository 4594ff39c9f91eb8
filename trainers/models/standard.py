"""Recognizers in the form that everybody's transformers opens: the audio classifier of the encoder.

`HubertForSequenceClassification` and its kin project each frame, average the frames and classify.
Ours averages and classifies, which is the same with the identity for the projection. So a plain
recognizer on a speech encoder of transformers is exported as the encoder's own classifier, with
`id2label` and `preprocessor_config.json`. What only this project needs (which labels were learned,
and from whom) lies beside it in `recognizer.json`.

The project's own data2vec encoders have such a classifier too, which `register_models` adds to the
Auto classes. What has no such form keeps the project's own: sets, speaker embeddings, PAPT's
interpreter head, small encoders, faces and video, and Whisper, whose classifier also averages over
the silence behind an utterance.

Shapes: D width, C classes or values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.storage.documents import read_json, write_json
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.registry import register_models

DESCRIPTION_NAME = "recognizer.json"
# By the model type; all of them classify by the mean over projected frames.
FAMILIES = (
    "hubert",
    "wav2vec2",
    "wavlm",
    "data2vec-audio",
    Data2VecConfig.model_type,
    "unispeech-sat",
    "wav2vec2-conformer",
    "sew",
    "wav2vec2-bert",
)


def is_standard(folder: str | Path) -> bool:
    """Whether `folder` holds a recognizer that was exported as a classifier of transformers."""
    return (Path(folder) / DESCRIPTION_NAME).is_file()


def read_description(folder: str | Path) -> dict[str, Any]:
    """The fields of the recognizer's own configuration."""
    described: dict[str, Any] = read_json(Path(folder) / DESCRIPTION_NAME)
    return described


def has_standard_form(encoder: Mapping[str, Any]) -> bool:
    """Whether there is a classifier of transformers' kind for the encoder of this configuration."""
    return encoder["model_type"] in FAMILIES and not encoder.get("add_adapter", False)


def is_known_to_transformers(encoder: Mapping[str, Any]) -> bool:
    """Whether transformers opens the classifier without `register_models`."""
    return has_standard_form(encoder) and encoder["model_type"] != Data2VecConfig.model_type


def save_standard(
    folder: Path,
    described: Mapping[str, Any],
    encoder_weights: Mapping[str, Tensor],
    classifier: nn.Linear,
) -> None:
    """Write a recognizer as the classifier of its encoder.

    `described` are the fields of the recognizer's configuration; `classifier` is its head, from D
    to C.
    """
    register_models()
    model = AutoModelForAudioClassification.from_config(_classifier_config(described))
    getattr(model, model.base_model_prefix).load_state_dict(encoder_weights)

    with torch.no_grad():
        nn.init.eye_(model.projector.weight)
        nn.init.zeros_(model.projector.bias)
        model.classifier.weight.copy_(classifier.weight)
        model.classifier.bias.copy_(classifier.bias)

    model.save_pretrained(folder)
    if described["encoder"]["model_type"] == "wav2vec2-bert":
        _save_energies_extractor(folder)
    else:
        save_preprocessor(folder, normalize=described["normalise"], has_mask=_has_mask(described))
    write_json(folder / DESCRIPTION_NAME, {**described, "encoder": _nameless(described)})


def load_standard(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the encoder and of the classifier that `save_standard` wrote.

    Raises ValueError when some are missing: transformers would only print a note and make them up.
    """
    register_models()
    model, found = AutoModelForAudioClassification.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if found["missing_keys"]:
        raise ValueError(
            f"{folder}: got a checkpoint without {', '.join(sorted(found['missing_keys']))}, "
            "expected one that this version exported; train it again"
        )

    return getattr(model, model.base_model_prefix).state_dict(), _folded(model)


def save_preprocessor(folder: Path, *, normalize: bool, has_mask: bool) -> None:
    """Write `preprocessor_config.json`, which says how sound is prepared for the model."""
    Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE_HZ,
        padding_value=0.0,
        do_normalize=normalize,
        return_attention_mask=has_mask,
    ).save_pretrained(folder)


def _save_energies_extractor(folder: Path) -> None:
    """Write the `preprocessor_config.json` of w2v-BERT, which hears log-mel energies."""
    SeamlessM4TFeatureExtractor(sampling_rate=SAMPLE_RATE_HZ).save_pretrained(folder)


def names_of_classes(names: Sequence[str]) -> dict[str, Any]:
    """The fields of a configuration by which transformers names what a model answers."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
    }


def _classifier_config(described: Mapping[str, Any]) -> Any:
    encoder = _nameless(described)
    model_type = encoder.pop("model_type")
    problem = "regression" if described["is_values"] else "single_label_classification"

    return AutoConfig.for_model(
        model_type,
        **{
            **encoder,
            **names_of_classes(described["names"]),
            "classifier_proj_size": encoder["hidden_size"],
            "use_weighted_layer_sum": False,
            "problem_type": problem,
        },
    )


def _nameless(described: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the encoder without the folder that it was loaded from.

    The folder is no concern of those who get the model.
    """
    return {name: value for name, value in described["encoder"].items() if name != "_name_or_path"}


def _has_mask(described: Mapping[str, Any]) -> bool:
    """Whether the encoder may see a mask; those with group norm were trained without."""
    encoder = described["encoder"]
    always = ("data2vec-audio", Data2VecConfig.model_type)
    return encoder["model_type"] in always or encoder.get("feat_extract_norm") == "layer"


def _folded(model: Any) -> dict[str, Tensor]:
    """The projection and the classifier as one linear layer.

    Others may have trained the model further, and its projection then is no longer the identity.
    """
    projector, classifier = model.projector, model.classifier
    weight = classifier.weight.detach()

    return {
        "weight": weight @ projector.weight.detach(),
        "bias": weight @ projector.bias.detach() + classifier.bias.detach(),
    }

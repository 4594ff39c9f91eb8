"""Exports recognizers, and opens by `AutoModelForAudioClassification` those with a form of our own.

`register_recognizers` is an explicit call, since nothing happens at an import. After it, the Auto
class of transformers opens every exported recognizer of sound, and the model answers with logits.

Shapes: N utterances, S samples, C classes or values.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForAudioClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from trainers.models.encoders.registry import register_models
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.models.standard import (
    has_standard_form,
    names_of_classes,
    save_preprocessor,
    save_standard,
)


class RecognizerForAudioClassification(EmotionRecognizer):
    """A recognizer of sound that is called as transformers calls its audio classifiers.

    All utterances of a batch are one set, so they must be of one speaker where sets personalize.
    The model itself normalizes the sound, where its encoder was trained on normalized sound.
    """

    main_input_name = "input_values"

    def forward(  # type: ignore[override]  # transformers names what it hands over
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        speakers: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits or values [N, C] of `input_values` [N, S].

        `attention_mask` [N, S] is 0 in the padding. `speakers` [N] are the numbers of speaker
        embeddings, for a model that has them.
        """
        lengths_N = torch.full(
            (len(input_values),), input_values.shape[1], device=input_values.device
        )
        if attention_mask is not None:
            lengths_N = attention_mask.sum(dim=1)

        found = super().forward(
            input_values, lengths_N, torch.zeros_like(lengths_N), None, speakers
        )
        return SequenceClassifierOutput(logits=found.scores_NC)


def register_recognizers() -> None:
    """Have the Auto classes of transformers open what `emostream train` exports.

    Calling it again changes nothing.
    """
    register_models()
    AutoConfig.register(RecognizerConfig.model_type, RecognizerConfig, exist_ok=True)
    AutoModelForAudioClassification.register(
        RecognizerConfig, RecognizerForAudioClassification, exist_ok=True
    )


def is_standard_recognizer(config: RecognizerConfig) -> bool:
    """Whether transformers alone can express a recognizer of this configuration."""
    return (
        config.modality == "audio"
        and config.head == "linear"
        and config.fusion == "none"
        and config.speaker_prior is None
        and not config.standardize_frames
        and not config.speakers
        and has_standard_form(config.encoder)
    )


def export_recognizer(model: EmotionRecognizer, folder: Path) -> None:
    """Write the recognizer: as a classifier of transformers where it can be one, else as our own.

    `EmotionRecognizer.from_pretrained` reads both.
    """
    config = model.config
    if is_standard_recognizer(config):
        weights = model.encoder.model.state_dict()
        save_standard(folder, config.to_dict(), weights, model.classifier)
        return

    for name, value in names_of_classes(config.names).items():
        setattr(config, name, value)
    model.save_pretrained(folder)
    if config.modality == "audio":
        save_preprocessor(folder, normalize=False, has_mask=True)

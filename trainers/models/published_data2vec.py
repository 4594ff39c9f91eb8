"""Writes a published model as a folder that `from_pretrained` reads.

A model without a classifier is an encoder, with its decoder beside it. One with a classifier, such
as emotion2vec+, is an audio classifier, which a panel takes as its labeler of sound.
"""

from pathlib import Path

import torch
from torch import nn

from trainers.models.encoders.data2vec.decoders import make_decoder, save_decoder
from trainers.models.encoders.data2vec.encoder import (
    Data2VecEncoder,
    Data2VecForAudioClassification,
)
from trainers.models.encoders.data2vec.published import PublishedModel
from trainers.models.standard import names_of_classes, save_preprocessor


def save_published(model: PublishedModel, folder: Path) -> None:
    """Write `model` into `folder`.

    Raises RuntimeError when a weight is missing or has another shape than the others tell of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Data2VecEncoder(model.config)
    encoder.load_state_dict(model.encoder)

    if model.classifier is None:
        encoder.save_pretrained(folder)
    else:
        _as_classifier(model, encoder).save_pretrained(folder)
        save_preprocessor(folder, normalize=model.config.normalize, has_mask=True)

    if model.decoder is not None:
        decoder = make_decoder(model.config)
        decoder.load_state_dict(model.decoder)
        save_decoder(decoder, folder)


def _as_classifier(
    model: PublishedModel, encoder: Data2VecEncoder
) -> Data2VecForAudioClassification:
    """The published classifier has no projection, so ours is the identity."""
    config, weights = model.config, model.classifier or {}
    for name, value in names_of_classes(model.classes).items():
        setattr(config, name, value)

    classifier = Data2VecForAudioClassification(config)
    classifier.encoder = encoder
    with torch.no_grad():
        nn.init.eye_(classifier.projector.weight)
        nn.init.zeros_(classifier.projector.bias)
    classifier.classifier.load_state_dict(weights)
    return classifier

"""Sets the dropout of a model that is already built.

The configuration stays as it is, because it is exported: what a model does in one training is no
property of it. Setting the options of the configuration before loading was the alternative; they
have other names in each family of encoders.
"""

from torch import nn

# transformers' attention keeps its probability as a number under one of these names.
_ATTENTION_NAMES = ("dropout", "dropout_prob")


def set_dropout(model: nn.Module, probability: float) -> None:
    """Make every dropout of `model`, those of attention too, drop with this probability."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability

        for name in _ATTENTION_NAMES:
            if isinstance(getattr(module, name, None), float | int):
                setattr(module, name, probability)

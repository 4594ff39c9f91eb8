"""Temperature scaling (Guo et al. 2017, equation 9), stored in the weights of the model.

Agreement compares the distributions of two teachers, so the probabilities of both must be right: an
overconfident teacher would disagree with everybody. A classifier's logits are divided by one number
T, chosen so that the labels of held-out speakers become most likely. Dividing the weights of the
last layer by T has the same effect, and the checkpoint stays a plain one that any tool can load.

Two alternatives were rejected. A calibration file beside the checkpoint would have to be known to
every reader of the checkpoint. Vector scaling and isotonic scaling can change which class is the
likeliest, and a few hundred validation utterances are too few to fit seven more numbers.

Shapes: N utterances, C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 10.0


def fit_temperature(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The T that minimizes the cross-entropy of softmax(logits / T) with the labels.

    The cross-entropy is convex in 1/T, so a bounded search finds the minimum. T is bounded, because
    a classifier that makes no mistake on the validation set would otherwise be scaled to certainty.
    """

    def cross_entropy(log_temperature: float) -> float:
        return float(F.cross_entropy(logits_NC.double() / np.exp(log_temperature), labels_N))

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def scale_logits(model: nn.Module, num_labels: int, temperature: float) -> None:
    """Divide `model`'s logits by `temperature`, in the weights of its last linear layer.

    Raises ValueError when the last linear layer does not give `num_labels` logits.
    """
    linear_layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear_layers or linear_layers[-1].out_features != num_labels:
        raise ValueError(
            f"{type(model).__name__}: expected a model whose last linear layer gives the "
            f"{num_labels} logits, got {linear_layers[-1] if linear_layers else 'no linear layer'}"
        )

    with torch.no_grad():
        for parameter in linear_layers[-1].parameters():
            parameter.div_(temperature)

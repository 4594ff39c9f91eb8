"""Regressions of scikit-learn, as layers of a network.

A penalty is given per utterance, so that one strength means the same for any size of corpus:
scikit-learn's C of a logistic regression is 1 / (strength * N).

Shapes: N utterances, D width, W classes or values, H hidden units.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from shards.config import ConfigError

MAX_ITERATIONS = 2000
# The logit of a class that no training utterance has, below the least of the others.
UNSEEN_LOGIT = -30.0

Array = NDArray[np.float32]
Layers = Sequence[tuple[Array, Array]]  # weight [out, in] and bias [out], the first layer first


def fit_classes(
    features_ND: Array, weights_NW: Array, strength: float, hidden_units: int, *, seed: int
) -> Layers:
    """Fit classes by the cross-entropy with the distributions `weights_NW`.

    Rows may be scaled, to weigh utterances. With hidden units the model is an MLP. Raises
    ConfigError when the utterances have fewer than two classes.
    """
    # A distribution is as many weighted examples as it has classes. They are float64, because
    # scikit-learn's solver stops too early on the rounding of float32.
    rows, labels = np.nonzero(weights_NW)
    examples = features_ND[rows].astype(np.float64)
    weights = weights_NW[rows, labels].astype(np.float64)
    weights *= len(features_ND) / weights.sum()
    if len(np.unique(labels)) < 2:
        raise ConfigError(
            "recipe speaker-normalized: the training utterances have one class, expected at least "
            "two to tell apart; give other --shards or other data.target.classes"
        )

    if hidden_units:
        network = MLPClassifier(
            hidden_layer_sizes=(hidden_units,), alpha=strength * len(features_ND), **_course(seed)
        )
        network.fit(examples, labels, weights)
        layers = list(zip(network.coefs_, network.intercepts_, strict=True))
        known = network.classes_
    else:
        regression = LogisticRegression(
            C=1 / (strength * len(features_ND)), max_iter=MAX_ITERATIONS
        )
        regression.fit(examples, labels, weights)
        layers = [(regression.coef_.T, regression.intercept_)]
        known = regression.classes_

    weight, bias = layers[-1]
    *before, _ = layers
    return _as_layers([*before, _for_all(weight, bias, known, weights_NW.shape[1])])


def fit_values(
    features_ND: Array, values_NW: Array, strength: float, hidden_units: int, *, seed: int
) -> Layers:
    """Fit values by least squares. With hidden units the model is an MLP."""
    examples = features_ND.astype(np.float64)
    if hidden_units:
        network = MLPRegressor(
            hidden_layer_sizes=(hidden_units,), alpha=strength * len(examples), **_course(seed)
        )
        # One value is wanted as a vector, or scikit-learn warns.
        network.fit(examples, values_NW[:, 0] if values_NW.shape[1] == 1 else values_NW)
        return _as_layers(list(zip(network.coefs_, network.intercepts_, strict=True)))

    regression = Ridge(alpha=strength * len(features_ND))
    regression.fit(examples, values_NW)
    return _as_layers([(np.atleast_2d(regression.coef_).T, np.atleast_1d(regression.intercept_))])


def _course(seed: int) -> dict[str, object]:
    """How the MLPs are fitted: on all utterances at once, so that their order changes nothing."""
    return {"solver": "lbfgs", "max_iter": MAX_ITERATIONS, "random_state": seed}


def _for_all(
    weight: Array, bias: Array, known: NDArray[np.int64], width: int
) -> tuple[Array, Array]:
    """The last layer for all W classes, from that for the `known` ones, which occurred.

    Two classes have one logit in scikit-learn, by which the second is likelier than the first.
    """
    if len(known) == 2:
        weight = np.concatenate([np.zeros_like(weight), weight], axis=1)
        bias = np.concatenate([np.zeros_like(bias), bias])

    whole = np.zeros((len(weight), width), dtype=np.float32)
    biases = np.full(width, bias.min() + UNSEEN_LOGIT, dtype=np.float32)
    whole[:, known], biases[known] = weight, bias
    return whole, biases


def _as_layers(layers: Sequence[tuple[Array, Array]]) -> Layers:
    """Weights as torch has them: the transpose of scikit-learn's."""
    return [(weight.T.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]

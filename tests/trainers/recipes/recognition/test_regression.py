"""Regressions answer as layers what scikit-learn answers, for any number of classes and values."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from shards.config import ConfigError
from trainers.recipes.recognition.regression import Layers, fit_classes, fit_values


def features(num_classes: int, number: int = 120) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(num_classes)
    labels = np.arange(number) % num_classes
    centers = rng.standard_normal((num_classes, 6))
    return (centers[labels] + rng.standard_normal((number, 6))).astype(np.float32), labels


def answered(layers: Layers, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the layers as torch does."""
    hidden = torch.from_numpy(features_ND)
    for place, (weight, bias) in enumerate(layers):
        hidden = torch.relu(hidden) if place else hidden
        hidden = torch.nn.functional.linear(
            hidden, torch.from_numpy(weight), torch.from_numpy(bias)
        )
    return hidden.numpy()


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_probabilities_are_those_of_scikit_learn(num_classes: int) -> None:
    """Two classes, which scikit-learn answers by one logit, are no special case."""
    features_ND, labels = features(num_classes)
    weights_NW = np.eye(num_classes, dtype=np.float32)[labels]
    layers = fit_classes(features_ND, weights_NW, 0.01, 0, seed=0)

    theirs = LogisticRegression(C=1 / (0.01 * 120), max_iter=2000).fit(features_ND, labels)
    found = softmax(answered(layers, features_ND), axis=1)
    np.testing.assert_allclose(found, theirs.predict_proba(features_ND), atol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_hidden_layer_is_scikit_learns(num_classes: int) -> None:
    """The layers of an MLP answer what the MLP answers."""
    features_ND, labels = features(num_classes)
    weights_NW = np.eye(num_classes, dtype=np.float32)[labels]
    layers = fit_classes(features_ND, weights_NW, 0.01, 4, seed=1)

    theirs = MLPClassifier((4,), alpha=1.2, solver="lbfgs", max_iter=2000, random_state=1)
    theirs.fit(features_ND.astype(np.float64), labels)
    found = softmax(answered(layers, features_ND), axis=1)
    np.testing.assert_allclose(found, theirs.predict_proba(features_ND), atol=1e-3)


def test_a_distribution_counts_as_its_shares() -> None:
    """Utterances that are half one class and half another fit as twice as many certain ones."""
    features_ND, labels = features(3)
    shared = 0.5 * (np.eye(3)[labels] + np.eye(3)[(labels + 1) % 3])
    layers = fit_classes(features_ND, shared.astype(np.float32), 0.1, 0, seed=0)

    doubled = np.concatenate([features_ND, features_ND])
    certain = np.eye(3)[np.concatenate([labels, (labels + 1) % 3])]
    expected = fit_classes(doubled, certain.astype(np.float32), 0.1, 0, seed=0)
    np.testing.assert_allclose(layers[0][0], expected[0][0], atol=2e-3)


def test_a_class_without_utterances_is_never_answered() -> None:
    """A class that the options name and the corpus lacks gets a finite, tiny probability."""
    features_ND, labels = features(2)
    layers = fit_classes(features_ND, np.eye(4, dtype=np.float32)[labels], 0.01, 0, seed=0)
    found = softmax(answered(layers, features_ND), axis=1)
    assert found[:, 2:].max() < 1e-6
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


def test_one_class_cannot_be_learned() -> None:
    """The error says what is missing."""
    with pytest.raises(ConfigError, match="have one class, expected at least two"):
        fit_classes(
            np.zeros((4, 2), np.float32), np.eye(3, dtype=np.float32)[[1] * 4], 1, 0, seed=0
        )


@pytest.mark.parametrize("num_values", [1, 2])
def test_values_are_fitted_by_ridge_regression(num_values: int) -> None:
    """One value and several are those of scikit-learn's Ridge."""
    features_ND, labels = features(4)
    values_NW = np.stack([labels, -2.0 * labels], axis=1)[:, :num_values].astype(np.float32)
    layers = fit_values(features_ND, values_NW, 0.1, 0, seed=0)

    theirs = Ridge(alpha=12.0).fit(features_ND, values_NW)
    expected = theirs.predict(features_ND).reshape(-1, num_values)
    np.testing.assert_allclose(answered(layers, features_ND), expected, atol=1e-3)


def test_values_may_have_a_hidden_layer() -> None:
    """An MLP learns what no line can: the absolute value of a feature."""
    features_ND, _ = features(3)
    values_NW = np.abs(features_ND[:, :1])
    layers = fit_values(features_ND, values_NW, 1e-3, 8, seed=0)
    assert np.corrcoef(answered(layers, features_ND)[:, 0], values_NW[:, 0])[0, 1] > 0.9

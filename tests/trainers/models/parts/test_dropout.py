"""One number for every dropout of an encoder, whatever its family calls them."""

import pytest
import torch

from tests.trainers.models.encoders.test_layerwise import ALL, encoder_named, sounds
from trainers.models.parts.dropout import set_dropout


@pytest.mark.parametrize("name", ALL)
def test_without_dropout_training_is_like_evaluation(name: str) -> None:
    """With 0, an encoder in training computes what it does in evaluation; with 0.5 it does not."""
    encoder, (inputs, lengths) = encoder_named(name), sounds()
    torch.manual_seed(0)
    with torch.no_grad():
        expected, _ = encoder.eval()(inputs, lengths)
        set_dropout(encoder.train(), 0.5)
        dropped, _ = encoder(inputs, lengths)
        set_dropout(encoder, 0.0)
        found, _ = encoder(inputs, lengths)

    torch.testing.assert_close(found, expected)
    assert not torch.allclose(dropped, expected, atol=1e-2)

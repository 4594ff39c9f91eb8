from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.models.classifiers.face_sequence import FaceSequenceClassifier, FaceSequenceConfig
from trainers.models.parts.pooling import masked_mean_and_std


def make_model() -> FaceSequenceClassifier:
    torch.manual_seed(0)
    return FaceSequenceClassifier(FaceSequenceConfig(feature_size=5, num_labels=7)).eval()


@given(
    st.integers(1, 30), st.integers(0, 30), st.sampled_from([0.0, 7.0, float("inf"), float("nan")])
)
@settings(max_examples=30, deadline=None)
def test_padding_has_no_influence(num_frames: int, padding: int, filler: float) -> None:
    """Logits do not change with frames the mask hides, whatever stands in them."""
    model = make_model()
    features = torch.randn(1, num_frames, 5, generator=torch.Generator().manual_seed(num_frames))
    padded = torch.cat([features, torch.full((1, padding, 5), filler)], dim=1)
    mask = (torch.arange(num_frames + padding) < num_frames).float().unsqueeze(0)
    torch.testing.assert_close(
        model(padded, attention_mask=mask).logits, model(features).logits, rtol=0, atol=1e-5
    )


def test_pooling_against_numpy() -> None:
    """Pooling is the mean and population standard deviation over the unmasked frames."""
    hidden = np.random.default_rng(0).normal(size=(2, 6, 3))
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    expected = [np.concatenate([x.mean(axis=0), x.std(axis=0)]) for x in (hidden[0], hidden[1, :4])]
    pooled = masked_mean_and_std(torch.tensor(hidden, dtype=torch.float32), torch.tensor(mask))
    np.testing.assert_allclose(pooled, expected, rtol=1e-4)


def test_one_frame_pools_to_a_finite_gradient() -> None:
    """A single frame has no spread, but its square root has a finite gradient."""
    hidden = torch.ones(1, 1, 3, requires_grad=True)
    masked_mean_and_std(hidden, torch.ones(1, 1)).sum().backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_statistics_travel_with_the_weights(tmp_path: Path) -> None:
    """Features are standardized by what was saved; a constant feature does not divide by zero."""
    model = make_model()
    model.set_statistics(torch.arange(5.0), torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0]))
    model.save_pretrained(tmp_path)
    loaded = FaceSequenceClassifier.from_pretrained(tmp_path, use_safetensors=True).eval()
    features = torch.randn(1, 4, 5)
    assert torch.isfinite(loaded(features).logits).all()
    torch.testing.assert_close(loaded(features).logits, model(features).logits)


def test_loss_is_cross_entropy() -> None:
    """With labels, the mean negative log probability comes back beside the logits."""
    model, features, labels = make_model(), torch.randn(3, 4, 5), torch.tensor([0, 6, 2])
    output = model(features, labels=labels)
    expected = -torch.log_softmax(output.logits, dim=-1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(output.loss, expected)

"""A refactoring reproduces the losses that were kept before it."""

import json
from pathlib import Path

import torch

from tests.trainers.golden_curves import KEPT, curve_of, differences, machine, runs


def test_every_recipe_gives_the_kept_losses(tmp_path: Path) -> None:
    """Thirty steps of each recipe give the kept losses.

    They are equal bit for bit on the machine that made the curves, and to a thousandth elsewhere.
    """
    torch.set_num_threads(1)
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    exact = kept["machine"] == machine()

    for name, values in runs(tmp_path):
        assert not differences(curve_of(values), kept["curves"][name], exact=exact), name


def test_a_difference_is_found() -> None:
    """A difference in one number is found beyond the tolerance or, if exact, at all."""
    curve = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    near = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25 + 1e-9}]
    far = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.26}]

    assert not differences(curve, curve, exact=True)
    assert not differences(near, curve, exact=False)
    assert differences(near, curve, exact=True)
    assert differences(far, curve, exact=False) == ["step 2: loss 0.26, kept 0.25"]
    assert differences(curve[:1], curve, exact=False)

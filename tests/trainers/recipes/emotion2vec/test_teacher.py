"""The teacher follows the student slowly, in float32, and is never trained."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.worlds.encoders import own_data2vec
from trainers.recipes.emotion2vec.config import Emotion2vecConfig, decay_at
from trainers.recipes.emotion2vec.teacher import Teacher


@pytest.mark.parametrize(
    ("step", "decay"),
    [(1, 0.999000049), (10_000, 0.999495), (20_000, 0.99999), (50_000, 0.99999)],
)
def test_the_decay_is_the_published_one(step: int, decay: float) -> None:
    """It rises linearly over 20,000 updates, and depends on the number of the update alone."""
    assert decay_at(step, Emotion2vecConfig()) == pytest.approx(decay, abs=1e-9)


def test_three_steps_by_hand() -> None:
    """The weights are those of t <- decay t + (1 - decay) s, in numbers of double precision."""
    student = nn.Linear(1, 2, bias=False)
    student.weight.data = torch.tensor([[1.0], [-2.0]])
    teacher, expected = Teacher(student), np.asarray([1.0, -2.0])

    for step, (values, decay) in enumerate(
        [([3.0, 0.0], 0.9), ([5.0, 1.0], 0.5), ([-1.0, 4.0], 0.99999)]
    ):
        student.weight.data = torch.tensor(values).unsqueeze(1)
        teacher.follow(student, decay)
        expected = decay * expected + (1 - decay) * np.asarray(values)
        np.testing.assert_allclose(
            teacher(torch.ones(1, 1)).numpy()[0], expected, rtol=1e-6, err_msg=f"step {step}"
        )


def test_it_stays_float32_and_moves_beside_a_student_of_bfloat16() -> None:
    """A cast of the whole module leaves its weights, and a decay of .99999 still moves them."""
    student = nn.Linear(8, 8)
    module = nn.ModuleList([student, Teacher(student)])
    before = {name: value.clone() for name, value in module[1].named_buffers()}
    module.bfloat16()
    student.weight.data += 0.5

    teacher = module[1]
    assert isinstance(teacher, Teacher)
    teacher.follow(student, 0.99999)
    after = dict(teacher.named_buffers())
    assert {value.dtype for value in after.values()} == {torch.float32}
    torch.testing.assert_close(
        after["weight"], before["weight"] + 1e-5 * (student.weight.float() - before["weight"])
    )
    assert not torch.equal(after["weight"], before["weight"])


def test_it_hears_as_the_student_does_in_evaluation() -> None:
    """At its start it gives what the student gives without dropout; it has nothing to train."""
    body = own_data2vec().body
    teacher = Teacher(body).train()
    frames, mask = torch.randn(2, 9, 32), torch.ones(2, 9, dtype=torch.bool)

    found = teacher(frames, mask, want_feed_forwards=True)
    with torch.inference_mode():
        expected = body.eval()(frames, mask, want_feed_forwards=True)
    torch.testing.assert_close(found.feed_forwards, expected.feed_forwards)
    torch.testing.assert_close(found.tokens_NXD, expected.tokens_NXD)
    assert not list(teacher.parameters())
    assert not list(teacher.children())
    assert not found.frames_NTD.requires_grad

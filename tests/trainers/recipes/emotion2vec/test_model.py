"""What the loss of emotion2vec depends on, and what it does not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shards.config_values import from_mapping
from shards.loading.loader import Batch, Padded
from tests.worlds.encoders import own_data2vec
from trainers.models.encoders.data2vec.decoders import make_decoder
from trainers.recipes.emotion2vec.config import Emotion2vecConfig
from trainers.recipes.emotion2vec.masks import exact_span_masks
from trainers.recipes.emotion2vec.model import Emotion2vecModel
from trainers.recipes.emotion2vec.objective import averaged_over_layers, squared_error

NUM_SAMPLES = 400
QUIET = {"dropout_probability": 0.0, "mask_noise": 0.0}


def model(options: Mapping[str, Any] | None = None, **sizes: Any) -> Emotion2vecModel:
    """Make a student without chance, and a teacher that differs from it."""
    config = from_mapping(Emotion2vecConfig, {"layer_drop": 0.0, **(options or {})})
    encoder = own_data2vec(**QUIET | {"num_extra_tokens": config.num_extra_tokens} | sizes)
    made = Emotion2vecModel(encoder, make_decoder(encoder.config), config)
    with torch.no_grad():
        for buffer in made.teacher.buffers():
            buffer.add_(0.05 * torch.randn_like(buffer))
    return made.train()


def sounds_and_masks(
    num: int = 3, clones: int = 2, num_samples: int = NUM_SAMPLES, num_frames: int = 39
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    masks = exact_span_masks(
        num * clones,
        num_frames,
        share=0.5,
        adjust=0.05,
        span_length=5,
        rng=np.random.default_rng(0),
    )
    return torch.randn(num, num_samples), torch.from_numpy(masks).view(num, clones, num_frames)


def batch_of(lengths: tuple[int, ...]) -> Batch:
    torch.manual_seed(6)
    values = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(values, lengths, strict=True):
        row[:length] = torch.randn(length)
    rows = torch.arange(len(lengths))
    return Batch(
        {"sound": Padded(values, torch.tensor(lengths))}, {}, rows, rows, ["a"] * len(rows), 4
    )


@pytest.mark.parametrize("sizes", [{}, {"body": "data2vec"}, {"front_end": "log_mel"}])
@pytest.mark.parametrize("utterance", ["chunk", "global"])
def test_clones_equal_separate_passes(sizes: dict[str, Any], utterance: str) -> None:
    """Both terms of M clones are those of M passes with one mask each."""
    made = model({"utterance": utterance}, **sizes)
    lengths = {"num_samples": 16_000, "num_frames": 25} if "front_end" in sizes else {}
    samples, hide = sounds_and_masks(**lengths)
    together = made.predict(samples, hide)
    for clone in range(2):
        alone = made.predict(samples, hide[:, clone : clone + 1])
        for name in ("frame_errors_NM", "utterance_errors_NM"):
            torch.testing.assert_close(
                getattr(together, name)[:, clone], getattr(alone, name)[:, 0]
            )


def test_neither_batchmates_nor_their_order_change_a_term() -> None:
    """The errors of an utterance are the same alone, among others, and in another order."""
    made, (samples, hide) = model(), sounds_and_masks()
    together, order = made.predict(samples, hide), torch.tensor([2, 0, 1])
    shuffled, alone = (
        made.predict(samples[order], hide[order]),
        made.predict(samples[1:2], hide[1:2]),
    )
    for name in ("frame_errors_NM", "utterance_errors_NM"):
        torch.testing.assert_close(getattr(shuffled, name), getattr(together, name)[order])
        torch.testing.assert_close(getattr(alone, name), getattr(together, name)[1:2])


def test_terms_by_hand() -> None:
    """Both terms equal those computed from teacher, student and decoder one after the other."""
    made, (samples, hide) = model(), sounds_and_masks(clones=1)
    found = made.predict(samples, hide)

    frames = made.encoder.front_end(samples, torch.full((3,), NUM_SAMPLES))
    mask = torch.ones(3, 39, dtype=torch.bool)
    outputs = made.teacher(frames, mask, want_feed_forwards=True).feed_forwards[1:]
    heard = made.encoder.body(frames, mask, hide[:, 0], remove_hidden=True)
    predicted = made.decoder(heard.frames_NTD, hide[:, 0])

    for row in range(3):
        hidden = hide[row, 0]
        targets = averaged_over_layers(
            [output[row : row + 1] for output in outputs], "instance_norm"
        )
        expected = squared_error(predicted[row, hidden], targets[0, hidden]).mean()
        torch.testing.assert_close(found.frame_errors_NM[row, 0], expected)  # type: ignore[index]

        utterance = torch.stack([output[row] for output in outputs]).mean(dim=(0, 1))
        expected = squared_error(heard.tokens_NXD[row].mean(dim=0), utterance)
        torch.testing.assert_close(found.utterance_errors_NM[row, 0], expected)  # type: ignore[index]


def test_the_published_target_of_utterances_is_zero() -> None:
    """The mean over time of what was normalized over time is 0, to 1e-6."""
    published = model({"targets": {"utterance": "instance_norm"}}).predict(*sounds_and_masks())
    assert published.utterance_targets_ND.abs().max() < 1e-6

    # With the frames as they are, both targets come of the same outputs.
    plain = model({"targets": {"frame": "none"}}).predict(*sounds_and_masks())
    assert plain.utterance_targets_ND.abs().max() > 1e-3


def test_global_is_a_mean_over_predictions_or_over_kept_frames() -> None:
    """The paper's averages the predictions of all frames, the published code's the kept frames."""
    samples, hide = sounds_and_masks(clones=1)
    for over in ("predicted", "kept"):
        made = model({"utterance": "global", "global_over": over})
        found = made.predict(samples, hide)
        frames = made.encoder.front_end(samples, torch.full((3,), NUM_SAMPLES))
        heard = made.encoder.body(
            frames, torch.ones_like(hide[:, 0]), hide[:, 0], remove_hidden=True
        )
        answer = heard.frames_NTD
        if over == "predicted":
            answer = made.decoder(heard.frames_NTD, hide[:, 0])
        expected = squared_error(answer.mean(dim=1), found.utterance_targets_ND)
        torch.testing.assert_close(found.utterance_errors_NM[:, 0], expected)  # type: ignore[index]


def test_no_gradient_reaches_teacher_or_target() -> None:
    """Targets ask for none, and the front end learns only through what the student hears."""
    made, (samples, hide) = model(), sounds_and_masks()
    found = made.predict(samples, hide)
    assert not found.targets.requires_grad
    assert not found.utterance_targets_ND.requires_grad
    assert not any(buffer.requires_grad for buffer in made.teacher.buffers())

    heard: list[Tensor] = []
    made.encoder.body.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    found = made.predict(samples, hide)
    assert found.frame_errors_NM is not None
    (through_student,) = torch.autograd.grad(
        found.frame_errors_NM.mean(), [heard[-1]], retain_graph=True
    )
    front = made.encoder.front_end.norm.weight
    (learned,) = torch.autograd.grad(found.frame_errors_NM.mean(), [front], retain_graph=True)
    (expected,) = torch.autograd.grad(heard[-1], [front], through_student)
    torch.testing.assert_close(learned, expected)


def test_heard_frames_get_nothing_from_the_frame_term() -> None:
    """The gradient of the frame term is 0 at predictions of frames that were not hidden."""
    made, (samples, hide) = model(), sounds_and_masks()
    predicted: list[Tensor] = []
    made.decoder.register_forward_hook(lambda _, __, output: predicted.append(output))
    found = made.predict(samples, hide)
    assert found.frame_errors_NM is not None
    (gradient,) = torch.autograd.grad(found.frame_errors_NM.sum(), predicted)
    assert not gradient[~hide.flatten(0, 1)].any()
    assert gradient[hide.flatten(0, 1)].all(dim=-1).all()


@pytest.mark.parametrize("terms", ["frame", "utterance", "both"])
def test_either_term_can_be_left_out(terms: str) -> None:
    """The loss is the sum of the terms that are there, the second times alpha."""
    made = model({"terms": terms, "alpha": 10.0, "clones": 2})
    torch.manual_seed(3)
    found = made(batch_of((600, 500)))
    expected = found.get("frame", 0.0) + 10 * found.get("utterance", 0.0)
    torch.testing.assert_close(found["loss"], expected)
    names = {"frame": {"frame"}, "utterance": {"utterance"}, "both": {"frame", "utterance"}}
    assert {"frame", "utterance"} & found.keys() == names[terms]
    found["loss"].backward()
    assert all(weight.grad is not None for weight in made.parameters() if weight.requires_grad)
    assert all(w.requires_grad == (terms != "utterance") for w in made.decoder.parameters())


def test_a_batch_is_cropped_to_its_shortest() -> None:
    """Crops lie within their utterance, and hidden frames are counted after cropping."""
    made, batch = model({"clones": 4}), batch_of((900, 600, 605))
    samples, hide = made.draw(batch, np.random.default_rng(0), 4)
    assert samples.shape == (3, 600)
    num_frames = int(made.encoder.front_end.num_frames(torch.tensor(600)))
    assert hide.shape == (3, 4, num_frames)
    assert set(hide.sum(dim=2).flatten().tolist()) == {num_frames // 2}
    assert made.batch_weight(batch) == 3 * (num_frames // 2)

    values = batch.inputs["sound"].values
    whole = (values[0] - values[0].mean()) / values[0].std(correction=0)
    windows = whole.unfold(0, 600, 1)
    assert (windows - samples[0]).abs().amax(dim=1).min() < 1e-5

    crops = [made.draw(batch, np.random.default_rng(seed), 1)[0][0] for seed in range(3)]
    assert not torch.equal(crops[0], crops[1]) or not torch.equal(crops[1], crops[2])


def test_the_teacher_follows_at_the_share_of_the_step() -> None:
    """After three updates it is the average by hand; its share of itself rises from .5 to .9."""
    made = model({"ema_start": 0.5, "ema_end": 0.9, "ema_steps": 2, "guard_after": 10})
    name = "layers.0.query_key_value.bias"
    weight = made.encoder.body.get_parameter(name)
    teacher = made.teacher.get_buffer(name.replace(".", "/"))
    expected = teacher.double().numpy().copy()

    for step, kept in ((1, 0.7), (2, 0.9), (3, 0.9)):
        with torch.no_grad():
            weight.fill_(float(step))
        made(batch_of((600, 500)))
        made.after_step(step)
        expected = kept * expected + (1 - kept) * step
        np.testing.assert_allclose(teacher.numpy(), expected, rtol=1e-5)


def test_scores_do_not_draw_from_the_generator_of_training() -> None:
    """Validation gives the same scores again, and leaves torch's generator where it was."""
    made, batch = model({}, dropout_probability=0.0, mask_noise=0.1).eval(), batch_of((600, 500))
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first, second = made.scores(batch), made.scores(batch)
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)
    assert first.shape == (2, 3 + 32)

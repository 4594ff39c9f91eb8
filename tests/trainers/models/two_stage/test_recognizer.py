"""The two-stage recognizer: what may change an answer, and what must not.

Expected answers are those of the branches alone, or numbers by hand.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.loading.loader import Padded
from tests.worlds.branches import (
    NUM_FEATURES,
    batch_of,
    face_branch,
    four_streams,
    small_model,
    sound_branch,
    utterance,
    without,
)
from trainers.models.two_stage.branch import FaceConvolution, StateSum, seen_by_attention, sinusoids
from trainers.models.two_stage.loading import is_two_stage, load_two_stage
from trainers.models.two_stage.recognizer import TwoStageRecognizer

UTTERANCES = [utterance(number) for number in range(6)]
CLOSE = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def model() -> TwoStageRecognizer:
    """A model of four streams."""
    return four_streams()


@torch.inference_mode()
def probabilities(model: TwoStageRecognizer, utterances: list, *, extra: int = 0) -> torch.Tensor:
    return model(batch_of(utterances, extra=extra)).log_probs_NC.exp()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True),
    st.sampled_from([0, 1, 40]),
    st.integers(0, 2**4 - 1),
)
@settings(max_examples=20, deadline=None)
def test_an_answer_depends_on_the_utterance_alone(
    rows: list[int], extra: int, lacking: int
) -> None:
    """Batchmates, their order, padding and what stands in it change nothing beyond 1e-6.

    Some utterances lack their face, or their sound.
    """
    model = four_streams()
    utterances = list(UTTERANCES)
    for place, name in ((0, "face"), (1, "sound"), (2, "face"), (3, "sound")):
        if lacking >> place & 1:
            utterances[place] = without(name, utterances[place])  # type: ignore[arg-type]

    alone = torch.cat([probabilities(model, [utterances[row]]) for row in rows])
    together = probabilities(model, [utterances[row] for row in rows], extra=extra)
    torch.testing.assert_close(together, alone, **CLOSE)


def test_attention_does_cross_frames_of_one_utterance(model: TwoStageRecognizer) -> None:
    """Another last frame changes what the first frame becomes."""
    face = UTTERANCES[0]["face"]
    changed = UTTERANCES[0] | {"face": np.concatenate([face[:-1], face[-1:] + 1.0])}
    with torch.inference_mode():
        before = model.streams(batch_of([UTTERANCES[0]]))[2][0]
        after = model.streams(batch_of([changed]))[2][0]  # type: ignore[list-item]
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-4


def test_branches_give_in_stage_2_what_they_gave_alone(model: TwoStageRecognizer) -> None:
    """A branch's frames are those of a model of this branch, bit for bit, also in training."""
    alone = small_model(sound_branch("voice"), seed=7)
    joined = four_streams()
    joined.encoders.load_state_dict(alone.encoders.state_dict())
    joined.branches[0].load_state_dict(alone.branches[0].state_dict())
    joined.keep(*joined.encoders, *joined.branches)
    joined.train()

    batch = batch_of(UTTERANCES)
    frames, mask = joined.streams(batch)[0]
    expected, expected_mask = alone.streams(batch)[0]
    assert torch.equal(frames, expected)
    assert torch.equal(mask, expected_mask)
    assert not frames.requires_grad


def test_only_what_joins_kept_branches_is_trained() -> None:
    """Kept parts get no gradient and no dropout; the shared layers, pooling and head get both."""
    model = four_streams()
    model.keep(*model.encoders, *model.branches)
    model.train()
    model(batch_of(UTTERANCES)).log_probs_NC[:, 0].sum().backward()

    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("shared.")}
    assert not model.branches[0].dropout.training
    assert model.shared is not None
    assert model.shared.layers[0].dropout.training


def test_the_order_of_branches_is_that_of_the_inputs_of_the_head(
    model: TwoStageRecognizer,
) -> None:
    """With branches in another order, the same numbers come in another order, and nothing else."""
    order = [2, 0, 3, 1]
    other = four_streams(branches=[model.config.branches[place] for place in order])
    other.encoders.load_state_dict(model.encoders.state_dict())
    assert model.shared is not None
    assert other.shared is not None
    other.shared.load_state_dict(model.shared.state_dict())
    for place, own in zip(order, other.branches, strict=True):
        own.load_state_dict(model.branches[place].state_dict())

    batch = batch_of(UTTERANCES)
    with torch.inference_mode():
        before, after = model(batch), other(batch)
    blocks = before.pooled.chunk(4, dim=1)
    torch.testing.assert_close(
        after.pooled, torch.cat([blocks[place] for place in order], dim=1), **CLOSE
    )

    head = model.shared.head[1].weight.data.chunk(4, dim=1)
    other.shared.head[1].weight.data = torch.cat([head[place] for place in order], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(other(batch).log_probs_NC, before.log_probs_NC, **CLOSE)


@pytest.mark.parametrize(("lacking", "left"), [("sound", (2, 3)), ("face", (0, 1))])
def test_without_an_input_the_other_branches_answer(
    model: TwoStageRecognizer, lacking: str, left: tuple[int, int]
) -> None:
    """The mean of their own probabilities; utterances with both are answered as ever."""
    lame = without(lacking, UTTERANCES[0])  # type: ignore[arg-type]
    with torch.inference_mode():
        found = model(batch_of([lame, UTTERANCES[1]]))
        streams = model.streams(batch_of([UTTERANCES[0]]))
        own = [
            model.branches[place]
            .answer(model.branches[place].pooled(*streams[place]))
            .softmax(dim=-1)
            for place in left
        ]

    torch.testing.assert_close(found.log_probs_NC[:1].exp(), (own[0] + own[1]) / 2, **CLOSE)
    torch.testing.assert_close(
        found.log_probs_NC[1:].exp(), probabilities(model, [UTTERANCES[1]]), **CLOSE
    )
    assert found.joint_N.tolist() == [False, True]
    assert found.heard_NJ[0].tolist() == [place in left for place in range(4)]


def test_with_one_branch_left_the_answer_is_that_branch_s_own() -> None:
    """Bit for bit, in a model of one sound and one face branch, and alone."""
    joined = small_model(sound_branch("audiovisual"), face_branch("audiovisual"))
    alone = small_model(face_branch("audiovisual"), seed=3)
    joined.branches[1].load_state_dict(alone.branches[0].state_dict())

    lame = batch_of([without("sound", one) for one in UTTERANCES])
    with torch.inference_mode():
        assert torch.equal(joined(lame).log_probs_NC, alone(lame).log_probs_NC)


def test_the_average_is_the_mean_of_the_branches_own_answers() -> None:
    """Without shared layers, as the control without stage 2."""
    branches = (sound_branch(), face_branch())
    model = small_model(*branches, fusion="average")
    batch = batch_of(UTTERANCES)
    with torch.inference_mode():
        streams = model.streams(batch)
        own = [
            branch.answer(branch.pooled(*stream)).softmax(dim=-1)
            for branch, stream in zip(model.branches, streams, strict=True)
        ]
        found = model(batch).log_probs_NC.exp()

    torch.testing.assert_close(found, (own[0] + own[1]) / 2, **CLOSE)
    assert model.shared is None


def test_branches_trained_together_have_no_answer_of_their_own() -> None:
    """Models 7 to 9: the joint head answers alone, with 0 for what an utterance lacks."""
    model = small_model(sound_branch(head_width=None), face_branch(head_width=None))
    with torch.inference_mode():
        found = model(batch_of([without("face", UTTERANCES[0]), UTTERANCES[1]]))
    assert found.log_probs_NC.isfinite().all()
    assert (found.pooled[0, 32:] == 0).all()
    assert (found.pooled[0, :32] != 0).any()
    with pytest.raises(ValueError, match="without a head"):
        model.branches[0].pooled(*model.streams(batch_of(UTTERANCES))[0])


def test_a_batch_in_which_nobody_has_a_face_is_answered(model: TwoStageRecognizer) -> None:
    """Not even the number of features is known then, as in a corpus without faces."""
    batch = batch_of(UTTERANCES[:2])
    bare = batch | {"face": Padded(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64))}
    with torch.inference_mode():
        found = model(bare)
        expected = model(batch_of([without("face", one) for one in UTTERANCES[:2]]))
    assert torch.equal(found.log_probs_NC, expected.log_probs_NC)


def test_states_are_weighed_by_a_softmax() -> None:
    """By hand: with logits log 1, log 2 and log 1, a quarter, a half and a quarter."""
    front = StateSum(sound_branch(feature_size=16))
    front.state_logits.data = torch.tensor([1.0, 2.0, 1.0]).log()
    front.projection.weight.data = torch.eye(16)
    front.projection.bias.data.zero_()

    states = list(torch.randn(3, 2, 4, 16))
    found, _ = front(states, torch.ones(2, 4, dtype=torch.bool))
    expected = 0.25 * states[0] + 0.5 * states[1] + 0.25 * states[2]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_face_has_as_many_frames_as_the_convolution_gives_it_alone(
    kernel_size: int, stride: int
) -> None:
    """Counted by torch's own convolution over a face without padding."""
    front = FaceConvolution(face_branch(kernel_size=kernel_size, stride=stride))
    lengths = torch.tensor([9, 1, 4, 0])
    _, mask = front(torch.randn(4, 9, NUM_FEATURES), lengths)
    counted = [
        front.convolution(torch.randn(1, NUM_FEATURES, length)).shape[-1] if length else 0
        for length in lengths.tolist()
    ]
    assert mask.sum(dim=1).tolist() == counted


def test_attention_always_has_something_to_look_at() -> None:
    """The mask stays as it is, but for an utterance without a frame."""
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert seen_by_attention(mask).tolist() == [[True, True, False], [True, True, True]]


def test_positions_are_sines_beside_cosines() -> None:
    """The first frame is 0 and 1, and the first pair turns by one radian a frame."""
    found = sinusoids(3, 6, like=torch.zeros(()))
    assert found[0].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 1.0, 2.0]).sin())
    torch.testing.assert_close(found[:, 3], torch.tensor([0.0, 1.0, 2.0]).cos())


def test_parameters_are_counted_by_part(model: TwoStageRecognizer) -> None:
    """The parts make up the whole; kept parts are not trained."""
    other = four_streams()
    other.keep(*other.encoders, *other.branches)
    counts = other.parameter_counts()
    assert counts["all"] == counts["encoders"] + counts["branches"] + counts["shared"]
    assert counts["trained"] == counts["shared"] > 0
    assert counts["all"] == sum(value.numel() for value in model.parameters())


def test_it_is_saved_and_loaded(model: TwoStageRecognizer, tmp_path: Path) -> None:
    """With the same answers; a folder that lacks weights or holds something else is refused."""
    model.save_pretrained(tmp_path / "model")
    assert is_two_stage(str(tmp_path / "model"))
    loaded = load_two_stage(str(tmp_path / "model"))
    assert torch.equal(probabilities(loaded, UTTERANCES), probabilities(model, UTTERANCES))

    with pytest.raises(ConfigError, match=r"model\.branches .*: no model of the recipe two-stage"):
        load_two_stage(str(tmp_path / "nothing"), option="model.branches")

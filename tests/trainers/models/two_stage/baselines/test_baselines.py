"""The baselines: what may change an answer, and what must not.

Attention is compared with torch's own, and numbers of parameters with formulas of the layers.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.worlds.branches import (
    batch_of,
    face_branch,
    small_model,
    sound_branch,
    utterance,
    without,
)
from trainers.models.two_stage.baselines.auxformer import mean_of_heard
from trainers.models.two_stage.baselines.building import build_baseline
from trainers.models.two_stage.baselines.sfav import AttentionWeights
from trainers.models.two_stage.baselines.streams import CrossLayer
from trainers.models.two_stage.configuration import BranchConfig, TwoStageConfig
from trainers.models.two_stage.loading import load_two_stage
from trainers.models.two_stage.recognizer import TwoStageRecognizer

KINDS: dict[str, dict[str, str]] = {
    "vavl": {"architecture": "vavl"},
    "auxformer": {"architecture": "auxformer"},
    "mult": {"architecture": "mult"},
    "sfav-lt": {"architecture": "sfav", "sfav_fusion": "lt"},
    "sfav-it": {"architecture": "sfav", "sfav_fusion": "it"},
    "sfav-ia": {"architecture": "sfav", "sfav_fusion": "ia"},
    "tsltm": {"architecture": "tsltm"},
}
UTTERANCES = [utterance(number) for number in range(4)]
CLOSE = {"rtol": 0.0, "atol": 1e-6}


def baseline(kind: str, *, seed: int = 0) -> TwoStageRecognizer:
    """A small baseline with random weights."""
    layers = 1 if kind == "vavl" else 0
    return small_model(
        sound_branch(head_width=None, num_layers=layers),
        face_branch(head_width=None, num_layers=layers),
        seed=seed,
        fusion="baseline",
        num_joint_layers=1,
        **KINDS[kind],
    )


@torch.inference_mode()
def probabilities(model: TwoStageRecognizer, utterances: list, *, extra: int = 0) -> torch.Tensor:
    return model(batch_of(utterances, extra=extra)).log_probs_NC.exp()


@pytest.mark.parametrize("extra", [0, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_depends_on_the_utterance_alone(kind: str, extra: int) -> None:
    """Batchmates, padding and what stands in it change nothing; one has no face, one no sound."""
    model = baseline(kind)
    lame = [without("face", UTTERANCES[0]), without("sound", UTTERANCES[1]), *UTTERANCES[2:]]
    alone = torch.cat([probabilities(model, [one]) for one in lame])
    together = probabilities(model, lame, extra=extra)
    torch.testing.assert_close(together, alone, **CLOSE)
    torch.testing.assert_close(together.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(probabilities(model, lame[::-1]), alone.flip(0), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_both_streams_and_all_their_frames_count(kind: str) -> None:
    """Another frame in the middle of the face, or of the sound, changes the answer."""
    model = baseline(kind)
    before = probabilities(model, [UTTERANCES[0]])
    for name in ("sound", "face"):
        values = UTTERANCES[0][name].copy()
        half = len(values) // 2
        values[half : half + max(1, half // 2)] += 1.0
        after = probabilities(model, [UTTERANCES[0] | {name: values}])  # type: ignore[list-item]
        assert (after - before).abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_learns(kind: str) -> None:
    """Each weight gets a gradient, and some steps on four utterances lower the loss."""
    model = baseline(kind).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch, labels_N = batch_of(UTTERANCES), torch.tensor([0, 1, 2, 0])
    losses = []
    torch.manual_seed(1)
    for _ in range(25):
        learned = model(batch).learned
        assert learned is not None
        loss = torch.stack([nn.functional.nll_loss(one, labels_N) for one in learned]).mean()
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            unused = [name for name, p in model.named_parameters() if p.grad is None]
        optimizer.step()
        losses.append(loss.item())

    assert all(name.startswith("encoders.") for name in unused), unused
    assert np.mean(losses[-5:]) < 0.85 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    """With the same kind and the same answers."""
    model = baseline(kind)
    model.save_pretrained(tmp_path / "model")
    loaded = load_two_stage(str(tmp_path / "model"))
    assert loaded.config.architecture == KINDS[kind]["architecture"]
    assert torch.equal(probabilities(loaded, UTTERANCES), probabilities(model, UTTERANCES))


def stream(seed: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [3, T, 16] of which the last utterance has all, the second two, the first none."""
    torch.manual_seed(seed)
    lengths = torch.tensor([0, 2, frames])
    return torch.randn(3, frames, 16), torch.arange(frames) < lengths[:, None]


def reference(layer: Any, bias: torch.Tensor, weight: torch.Tensor) -> nn.MultiheadAttention:
    """torch's own attention with the weights of a layer."""
    torchs = nn.MultiheadAttention(16, layer.num_heads, batch_first=True).eval()
    torchs.in_proj_weight.data, torchs.in_proj_bias.data = weight, bias
    return torchs


def test_attention_across_streams_is_torch_s() -> None:
    """nn.MultiheadAttention with the same weights, where there is something to look at."""
    layer = CrossLayer(face_branch(dropout_probability=0.0))
    (looking, _), (source, mask) = stream(0, 5), stream(1, 7)
    torchs = reference(
        layer,
        torch.cat([layer.query.bias, layer.key_value.bias]).detach(),
        torch.cat([layer.query.weight, layer.key_value.weight]).detach(),
    )
    torchs.out_proj.load_state_dict(layer.projection.state_dict())

    with torch.inference_mode():
        found = layer.attend(looking, (source, mask))
        normed = layer.source_norm(source)[1:]
        expected, _ = torchs(
            layer.query_norm(looking)[1:], normed, normed, key_padding_mask=~mask[1:]
        )
    torch.testing.assert_close(found[1:], expected, **CLOSE)
    assert (found[0] == 0).all()


def test_the_weights_of_intermediate_attention_are_torch_s() -> None:
    """torch's attention, mean over heads, summed over the frames that look."""
    part = AttentionWeights(face_branch())
    looked_at, looking = stream(0, 5), stream(1, 7)
    torchs = reference(
        part,
        torch.cat([part.query.bias, part.key.bias, torch.zeros(16)]).detach(),
        torch.cat([part.query.weight, part.key.weight, torch.eye(16)]).detach(),
    )

    with torch.inference_mode():
        found = part(looked_at, looking)
        keys, queries = looked_at[0][1:], looking[0][1:]
        _, paid = torchs(queries, keys, keys, key_padding_mask=~looked_at[1][1:])
    torch.testing.assert_close(
        found[1:], (paid * looking[1][1:].unsqueeze(-1)).sum(dim=1), rtol=0.0, atol=1e-5
    )
    assert (found[0] == 1).all()


def test_the_mean_is_of_the_answers_whose_input_is_there() -> None:
    """By hand: joint .8, sound .4 and faces .2 are .4667 with both, and .6 with sound alone."""
    answers = [torch.tensor([[p, 1 - p]]).log().expand(2, 2) for p in (0.8, 0.4, 0.2)]
    found = mean_of_heard(answers, torch.tensor([[True, True], [True, False]])).exp()
    torch.testing.assert_close(found[:, 0], torch.tensor([1.4 / 3, 0.6]))


@pytest.mark.parametrize(("lacking", "left"), [("face", 1), ("sound", 2)])
def test_vavl_has_a_head_for_a_stream_alone(lacking: str, left: int) -> None:
    """Without a face the head of sound answers, exactly as it does beside a face."""
    model = baseline("vavl")
    with torch.inference_mode():
        found = model(batch_of([without(lacking, UTTERANCES[0])]))  # type: ignore[arg-type]
        whole = model(batch_of([UTTERANCES[0]]))
    torch.testing.assert_close(found.log_probs_NC, whole.learned[left], **CLOSE)
    torch.testing.assert_close(whole.log_probs_NC, whole.learned[0], **CLOSE)


def test_auxformer_drops_a_stream_in_a_fifth_of_the_batches_each() -> None:
    """Never both at once, for all utterances of the batch alike, and only in training."""
    part: Any = baseline("auxformer").baseline
    streams = [stream(0, 3), stream(1, 4)]
    torch.manual_seed(0)
    dropped = [0, 0]
    for _ in range(2000):
        kept = [bool(mask.any()) for _, mask in part._dropped(streams)]
        assert any(kept)
        dropped = [count + (not one) for count, one in zip(dropped, kept, strict=True)]
    # 400 are expected; the deviation of a count is 18.
    assert all(320 < count < 480 for count in dropped)

    model = baseline("auxformer")
    first = probabilities(model, UTTERANCES)
    assert all(torch.equal(probabilities(model, UTTERANCES), first) for _ in range(5))


def attention(width: int) -> int:
    return 4 * width * width + 4 * width


def layer(width: int, forward: int, *, norms: int) -> int:
    """Attention, feed-forward layers and norms."""
    return attention(width) + 2 * width * forward + forward + width + norms * 2 * width


def pooling(width: int) -> int:
    return width * width + 2 * width


def dense(width: int, hidden: int, classes: int = 6) -> int:
    return width * hidden + hidden + hidden * classes + classes


def own(width: int, forward: int, layers: int) -> int:
    """Self-attention, and the norm behind it."""
    return layers * layer(width, forward, norms=2) + 2 * width


# Widths, heads and layers are those of the published code; feed-forward and dense head are ours.
PUBLISHED = {
    "mult": (
        {"hidden_size": 30, "num_attention_heads": 5, "intermediate_size": 120},
        {"num_joint_layers": 5},
        2 * 5 * layer(30, 120, norms=3)
        + 2 * own(30, 120, 5)
        + pooling(30)
        + 2 * (120 * 120 + 120)
        + (120 * 6 + 6),
    ),
    "auxformer": (
        {"hidden_size": 50, "num_attention_heads": 10, "intermediate_size": 200},
        {"num_joint_layers": 5},
        2 * 5 * layer(50, 200, norms=3)
        + 4 * own(50, 200, 5)
        + pooling(50)
        + dense(200, 64)
        + 2 * dense(100, 64),
    ),
    "vavl": (
        {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
        {"num_shared_layers": 2},
        2 * (layer(512, 2048, norms=2) + 2 * 512)
        + pooling(512)
        + dense(2048, 64)
        + 2 * dense(1024, 64),
    ),
    "sfav-lt": (
        {"hidden_size": 128, "num_attention_heads": 1, "intermediate_size": 512},
        {},
        8 * (3 * 128 * 128 + 128 + 2 * 128)
        + 2 * layer(128, 512, norms=3)
        + pooling(128)
        + dense(512, 64),
    ),
    "sfav-ia": (
        {"hidden_size": 128, "num_attention_heads": 1, "intermediate_size": 512},
        {},
        8 * (3 * 128 * 128 + 128 + 2 * 128)
        + 2 * 2 * (128 * 128 + 128)
        + pooling(128)
        + dense(512, 64),
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_baseline_has_as_many_parameters_as_its_layers_say(kind: str) -> None:
    """At the published sizes, counted by hand from the layers."""
    sizes, joint, expected = PUBLISHED[kind]
    branch = BranchConfig(input="face", labels="audiovisual", feature_size=8, **sizes)
    config = TwoStageConfig(
        names=list("abcdef"), branches=[branch.as_values()], head_width=64, **KINDS[kind], **joint
    )
    part = build_baseline(config)
    assert part is not None
    assert sum(value.numel() for value in part.parameters()) == expected


def test_an_unknown_architecture_is_refused() -> None:
    """A checkpoint of a later version says so."""
    branch = face_branch().as_values()
    with pytest.raises(ValueError, match="architecture: got novel"):
        build_baseline(TwoStageConfig(names=["a"], branches=[branch], architecture="novel"))  # type: ignore[arg-type]

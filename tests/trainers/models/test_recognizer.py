"""The recognizer trains, saves and loads with every fusion and makes prefixes from support sets."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import HubertConfig, VideoMAEConfig

from shards.config import ConfigError
from trainers.models.encoders.seams import LayerInput
from trainers.models.heads import BatchNorm
from trainers.models.losses import soft_cross_entropy
from trainers.models.personal.halves import halve
from trainers.models.recognizer import EmotionRecognizer, is_recognizer
from trainers.models.recognizer_config import RecognizerConfig

SETS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
SMALL_LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SMALL_P = {"code_width": 8, "num_prefixes": 2, "num_codes": 12}
FUSIONS = ["none", "prefix", "addition", "cross_attention"]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch.randn(len(SETS), 4800), torch.tensor(
        [4800, 3000, 4000, 4800, 2000, 4800, 3300, 4100]
    )


def make(fusion: str, **options: Any) -> EmotionRecognizer:
    torch.manual_seed(1)
    encoder = {"model_type": "emostream_sequence", "hidden_size": 32, "num_hidden_layers": 2}
    extractor = SMALL_P | ({"num_prefixes": 1} if fusion == "addition" else {})
    values = {
        "encoder": encoder,
        "names": ["neutral", "anger", "happiness"],
        "fusion": fusion,
        "extractor": extractor,
    }

    return EmotionRecognizer(RecognizerConfig(**(values | options)))


def untrained(model: EmotionRecognizer) -> set[str]:
    """Return the trainable parameters to which a backward pass gave no finite gradient."""
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    return {name for name, gradient in trained if gradient is None or not gradient.isfinite().all()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_is_trained(fusion: str) -> None:
    """A step gives each parameter a gradient, so no rank waits for one that has none."""
    model = make(fusion).train()
    found = model(*batch(), SETS)
    loss = found.scores_NC.square().mean() + sum(found.terms.values())
    loss.backward()
    assert untrained(model) == set()
    assert set(found.terms) == (set() if fusion == "none" else {"vq", "nce"})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saved_recognizer_is_the_same_recognizer(fusion: str, tmp_path: Path) -> None:
    """`from_pretrained` gives a model with the same scores."""
    model = make(fusion, head="interpreter").eval()
    model.save_pretrained(tmp_path)
    loaded = EmotionRecognizer.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded(*batch(), SETS).scores_NC, model(*batch(), SETS).scores_NC
        )
    assert (tmp_path / "model.safetensors").exists()


def test_a_checkpoint_without_some_weights_is_refused(tmp_path: Path) -> None:
    """A checkpoint that lacks weights is refused by their names."""
    make("prefix", extractor=SMALL_P | {"restart_codes": True}).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["extractor.quantizer.offset"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"without extractor\.quantizer\.offset, expected"):
        EmotionRecognizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_hubert_is_trained_and_saved_with_it(tmp_path: Path, norm: str) -> None:
    """The encoder's configuration is saved too, and a step trains all that is not frozen."""
    convolutions = {
        "conv_dim": (16,),
        "conv_kernel": (10,),
        "conv_stride": (5,),
        "num_feat_extract_layers": 1,
    }

    config = HubertConfig(
        feat_extract_norm=norm, num_conv_pos_embeddings=8, **SMALL_LAYERS, **convolutions
    )
    model = make("prefix", encoder=config.to_dict(), normalise=norm == "layer").train()

    found = model(*batch(), SETS)
    (found.scores_NC.square().mean() + sum(found.terms.values())).backward()
    assert untrained(model) == set()
    assert_same_after_saving(model, tmp_path, batch())


def test_videomae_is_saved_with_it(tmp_path: Path) -> None:
    """VideoMAE's fixed positions are no weights, but they survive saving."""
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **SMALL_LAYERS)
    model = make("prefix", encoder=config.to_dict(), modality="video")
    assert_same_after_saving(
        model, tmp_path, (torch.randn(len(SETS), 4, 3, 16, 16), torch.full((len(SETS),), 4))
    )


def test_setpeer_on_videomae_base_has_the_published_size() -> None:
    """P of D = 768, 12 layers, C = 64, Q = 4, M = 512 has the published number of parameters.

    Nothing is allocated.
    """
    published = {"num_prefixes": 4, "code_width": 64, "num_codes": 512}
    with torch.device("meta"):
        model = make(
            "prefix", encoder=VideoMAEConfig().to_dict(), modality="video", extractor=published
        )

    assert model.extractor is not None
    assert (model.encoder.width, len(model.encoder.layers)) == (768, 12)
    assert sum(parameter.numel() for parameter in model.extractor.parameters()) == 438_912


def assert_same_after_saving(
    model: EmotionRecognizer, folder: Path, inputs: tuple[Tensor, Tensor]
) -> None:
    model.eval().save_pretrained(folder)
    loaded = EmotionRecognizer.from_pretrained(folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*inputs, SETS).scores_NC, model(*inputs, SETS).scores_NC)


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_sets_do_not_see_each_other(fusion: str) -> None:
    """A set has the same scores alone and beside others."""
    model, (inputs, lengths) = make(fusion).eval(), batch()
    with torch.inference_mode():
        together = model(inputs, lengths, SETS).scores_NC
        alone = model(inputs[4:7], lengths[4:7], torch.zeros(3, dtype=torch.long)).scores_NC
    torch.testing.assert_close(together[4:7], alone, rtol=1e-3, atol=1e-5)


def test_prefixes_are_made_from_the_source_alone() -> None:
    """An utterance outside the source is served by the set's prefix and does not change it."""
    model, (inputs, lengths) = make("prefix").eval(), batch()
    source = torch.tensor([True, True, False, False, True, True, False, True])
    changed = inputs.clone()
    changed[2] = torch.randn(4800)

    with torch.inference_mode():
        before = model(inputs, lengths, SETS, source)
        after = model(changed, lengths, SETS, source)
        everybody = model(inputs, lengths, SETS)

    torch.testing.assert_close(after.scores_NC[[0, 1, 3]], before.scores_NC[[0, 1, 3]])
    torch.testing.assert_close(before.speakers_BD, after.speakers_BD)
    assert before.codes[0].shape == everybody.codes[0].shape == (3 * 2,)


def test_a_set_without_a_source_is_refused() -> None:
    """A set without a source is refused, because its scores would not be numbers."""
    with pytest.raises(ValueError, match="without an utterance that its prefix could be made from"):
        make("prefix").eval()(*batch(), SETS, SETS != 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 99),
)
def test_halves_are_disjoint_and_equal(rows: list[tuple[int, bool]], seed: int) -> None:
    """A set of two or more sources gives two disjoint, equal halves; a set of one gives none."""
    torch.manual_seed(seed)
    sets, source = (torch.tensor(column) for column in zip(*rows, strict=True))
    halves = halve(sets, source)

    sizes = Counter(sets[source].tolist())
    large = sorted(number for number, size in sizes.items() if size > 1)
    assert halves.num_sets == len(large)

    found = {
        number: halves.rows[halves.numbers == number].tolist() for number in range(2 * len(large))
    }
    assert sum(map(len, found.values())) == len(halves.rows) == len(set(halves.rows.tolist()))

    for place, number in enumerate(large):
        first, second = found[place], found[place + len(large)]
        assert len(first) == len(second) == sizes[number] // 2
        assert all(sets[row] == number and source[row] for row in first + second)


def test_halves_are_random() -> None:
    """Each pass splits a set anew, and torch's seed decides how."""
    sets, everybody = torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.bool)
    torch.manual_seed(0)
    splits = [frozenset(halve(sets, everybody).rows[:4].tolist()) for _ in range(20)]
    torch.manual_seed(0)
    assert splits[0] == frozenset(halve(sets, everybody).rows[:4].tolist())
    assert len(set(splits)) > 5


@pytest.mark.parametrize("quantized", [True, False])
def test_it_is_equations_2_to_6(quantized: bool) -> None:
    """One set through P and the layers equals the paper's equations, written out by hand.

    There are no masks, no batch of sets and no hooks.
    """
    model = make("prefix", extractor=SMALL_P | {"quantized": quantized}).eval()
    sounds = torch.randn(3, 4800, generator=torch.Generator().manual_seed(2))
    lengths, one_set = torch.full((3,), 4800), torch.zeros(3, dtype=torch.long)
    seen: list[Tensor] = []

    def watch(layer: int, hidden: Tensor, mask: Tensor) -> LayerInput:
        seen.append(hidden)
        return LayerInput(hidden, mask)

    with torch.inference_mode():
        found = model(sounds, lengths, one_set)
        model.encoder(sounds, lengths, watch)
        hidden, extractor, embeddings = seen[0], model.extractor, []  # x_0
        assert extractor is not None
        for layer, module in enumerate(model.encoder.layers):
            pooled = hidden.mean(dim=1)  # p_l
            reduced = extractor.reduce(pooled + extractor.layer_embedding.weight[layer])  # Eq. 2
            context = extractor.contextualise(reduced.unsqueeze(0))[0]  # Eq. 3
            vectors = extractor.expand(context.mean(dim=0)).view(2, 8)  # Eq. 4
            if extractor.quantizer is not None:
                codes = extractor.quantizer.codebook.weight
                vectors = torch.stack(
                    [codes[(codes - vector).square().sum(1).argmin()] for vector in vectors]
                )
            prefix = extractor.project(vectors)  # Eq. 5
            embeddings.append(prefix)
            joined = torch.cat([prefix.expand(3, 2, 32), hidden], dim=1)  # Eq. 6
            hidden = module(joined, torch.ones(joined.shape[:2], dtype=torch.bool))[:, 2:]
        pooled = model.encoder.model.norm(hidden).mean(dim=1)
        scores = model.head(pooled)

    torch.testing.assert_close(found.pooled_ND, pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.scores_NC, scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.speakers_BD[0], torch.stack(embeddings).mean(dim=(0, 1)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("fusion", FUSIONS[1:])
@pytest.mark.parametrize("sets", [[0] * 8, list(range(8)), [0, 0, 0, 0, 0, 0, 1, 1]])
def test_any_set_sizes_train(fusion: str, sets: list[int]) -> None:
    """One speaker, sets of one and uneven sets give the same terms and train every parameter."""
    model = make(fusion).train()
    found = model(*batch(), torch.tensor(sets))
    loss = found.scores_NC.square().mean() + sum(found.terms.values())
    loss.backward()

    assert set(found.terms) == {"vq", "nce"}
    assert loss.isfinite()
    assert untrained(model) == set()

    contrast = found.terms["nce"].item()
    assert (contrast > 0) == (sets[0] != sets[-1] and sets[0] == sets[1])


def test_a_set_larger_than_any_trained_with() -> None:
    """P takes a set of 40 utterances after sets of four."""
    model = make("prefix").eval()
    with torch.inference_mode():
        found = model(
            torch.randn(40, 1600), torch.full((40,), 1600), torch.zeros(40, dtype=torch.long)
        )
    assert found.scores_NC.isfinite().all()
    assert found.speakers_BD.shape == (1, 32)


def test_without_contrast_there_is_no_term() -> None:
    """Without the contrast, P runs once a layer and not twice."""
    model = make("prefix", contrast_temperature=None).train()
    calls: list[int] = []
    model.extractor.register_forward_hook(lambda *_: calls.append(1))
    assert set(model(*batch(), SETS).terms) == {"vq"}
    assert len(calls) == 2


@pytest.mark.parametrize("head", ["linear", "interpreter"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_bfloat16_trains(fusion: str, head: str) -> None:
    """Terms and running statistics stay float32, and scores are near those of float32."""
    model = make(fusion, head=head)

    with torch.no_grad():
        exact = model.eval()(*batch(), SETS).scores_NC
        rough = model.bfloat16()(*batch(), SETS).scores_NC
    assert (exact - rough).norm() / exact.norm() < 0.1

    found = model.train()(*batch(), SETS)
    assert {term.dtype for term in found.terms.values()} <= {torch.float32}
    (found.scores_NC.square().mean() + sum(found.terms.values())).backward()
    assert untrained(model) == set()
    assert {b.dtype for n, b in model.named_buffers() if b.is_floating_point()} == {torch.float32}


def test_the_interpreters_batch_norm_is_torchs() -> None:
    """It equals nn.BatchNorm1d; a batch of one uses the running statistics and keeps them."""
    torch.manual_seed(0)
    own, torchs = BatchNorm(5), nn.BatchNorm1d(5)
    rows = torch.randn(7, 5) * 3 + 1
    torch.testing.assert_close(own(rows), torchs(rows))
    torch.testing.assert_close(own.running_mean, torchs.running_mean)
    torch.testing.assert_close(own.running_var, torchs.running_var)
    torch.testing.assert_close(own(rows[:1]), torchs.eval()(rows[:1]))
    torch.testing.assert_close(own.running_mean, torchs.running_mean)


def test_another_task_starts_from_what_was_learned(tmp_path: Path) -> None:
    """A partial start takes over the head for the same classes only, and P only if it is alike."""
    start, other_classes = make("prefix"), {"names": ["anger", "sadness"]}
    start.save_pretrained(tmp_path)
    assert is_recognizer(str(tmp_path))

    torch.manual_seed(9)
    cases = {
        ("encoder", "extractor", "head"): make("prefix", extractor=SMALL_P | {"commitment": 0.5}),
        ("encoder", "extractor"): make("prefix", **other_classes),
        ("encoder", "head"): make("prefix", extractor=SMALL_P | {"num_codes": 7}),
    }

    for taken, model in cases.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)

        model.start_from(start, "run", allow_partial=True)
        for name in ("encoder", "extractor", "head"):
            own, learned = (list(getattr(m, name).parameters()) for m in (model, start))
            same = all(
                a.shape == b.shape and torch.equal(a, b) for a, b in zip(own, learned, strict=True)
            )
            assert same == (name in taken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": ["anger", "sadness"]},
            r"2 tensors .* head.1.weight \[3, 32\], head.1.bias \[3\]; the classes: 3 \(.*\) "
            r"there, 2 \(anger, sadness\) here",
        ),
        (
            {"extractor": SMALL_P | {"num_codes": 7}},
            r"extractor.layer_embedding.weight .* and \d+ more; model.num_codes: 12 there, 7 here",
        ),
        ({"fusion": "none", "extractor": {}}, r"; model.fusion: prefix there, none here\. Give"),
        ({"head": "interpreter"}, "model.head: linear there, interpreter here"),
    ],
)
def test_a_start_that_would_lose_something_is_refused(
    options: dict[str, Any], message: str
) -> None:
    """The tensors are named with their shapes, and the options that differ; nothing is copied."""
    start, model = make("prefix"), make(**({"fusion": "prefix"} | options))
    with torch.no_grad():
        next(start.encoder.parameters()).add_(1.0)

    before = next(model.encoder.parameters()).clone()
    with pytest.raises(ConfigError, match=message) as refused:
        model.start_from(start, "runs/one/best")
    assert "encoder.checkpoint runs/one/best: " in str(refused.value)
    assert "--allow-partial-start" in str(refused.value)
    assert torch.equal(next(model.encoder.parameters()), before)


def test_it_learns() -> None:
    """Sixty steps on eight utterances bring the loss near zero, personalized and not."""
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])]
    for fusion in ("none", "prefix"):
        model = make(fusion, head_dropout=0.0).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            found = model(*batch(), SETS)
            loss = soft_cross_entropy(found.scores_NC, targets)
            optimizer.zero_grad()
            (loss + 0.1 * sum(found.terms.values())).backward()
            optimizer.step()

        assert loss.item() < 0.3

"""Masked prediction: hidden frames cannot be heard, and embeddings reach their speakers alone."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainers.models.encoders.test_layerwise import ALL, encoder_named, sounds
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.masked_predictor import MaskedPredictor
from trainers.models.parts.masking import span_mask
from trainers.models.personal.speaker_embedding import SpeakerEmbedding, SpeakerFusion

SPEAKERS = torch.tensor([0, 2, 1])
FUSIONS = get_args(SpeakerFusion)


def make(
    name: str, fusion: SpeakerFusion | None = None, front_end_gradient: float = 0.1
) -> MaskedPredictor:
    encoder = encoder_named(name)
    torch.manual_seed(3)
    speakers = None if fusion is None else SpeakerEmbedding(4, encoder.width, 8, fusion)
    if speakers is not None:
        torch.nn.init.normal_(speakers.table.weight)

    return MaskedPredictor(
        encoder,
        11,
        projection_size=6,
        temperature=0.1,
        front_end_gradient=front_end_gradient,
        speakers=speakers,
    ).eval()


def hidden_frames(encoder: LayerwiseEncoder, lengths: Tensor) -> Tensor:
    frames = encoder.num_frames(lengths).tolist()
    rng = np.random.default_rng(0)
    return torch.from_numpy(span_mask(frames, probability=0.6, span_length=2, min_spans=1, rng=rng))


@pytest.mark.parametrize("name", ALL)
def test_a_wholly_hidden_utterance_cannot_be_heard(name: str) -> None:
    """Other sound of the same length changes the predictions only if it is not hidden."""
    model, (inputs, lengths) = make(name), sounds()
    frames = model.encoder.num_frames(lengths)
    everything = torch.arange(int(frames.max())) < frames.unsqueeze(1)
    other = inputs.flip(0).roll(1, dims=1)[:, : inputs.shape[1]] * (inputs != 0)

    with torch.inference_mode():
        assert torch.equal(
            model(inputs, lengths, everything).logits_HL,
            model(other, lengths, everything).logits_HL,
        )
        heard = everything & (torch.arange(everything.shape[1]) % 2 == 0)
        assert not torch.allclose(
            model(inputs, lengths, heard).logits_HL, model(other, lengths, heard).logits_HL
        )


@pytest.mark.parametrize("name", ALL)
def test_hidden_frames_are_numbered_as_they_stand(name: str) -> None:
    """The encoder has as many frames as it says, and hidden frames affect only their utterance."""
    model, (inputs, lengths) = make(name), sounds()
    hide = hidden_frames(model.encoder, lengths)
    with torch.inference_mode():
        together = model(inputs, lengths, hide).logits_HL.split(hide.sum(dim=1).tolist())
        for row, expected in enumerate(together):
            length = int(lengths[row])
            mine = hide[row : row + 1, : int(model.encoder.num_frames(lengths[row : row + 1]))]
            alone = model(inputs[row : row + 1, :length], lengths[row : row + 1], mine).logits_HL
            torch.testing.assert_close(alone, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["hubert-layer", "mel"])
def test_logits_are_cosines(name: str) -> None:
    """Logits are cosines of a projected frame and each label's embedding, over the temperature."""
    model, (inputs, lengths) = make(name), sounds()
    hide = hidden_frames(model.encoder, lengths)
    with torch.inference_mode():
        frames, _ = model.encoder(inputs, lengths, None, hide)

        expected = (
            F.cosine_similarity(
                model.project(frames[hide]).unsqueeze(1), model.labels.weight, dim=-1
            )
            / 0.1
        )
        torch.testing.assert_close(model(inputs, lengths, hide).logits_HL, expected)


@pytest.mark.parametrize("fusion", [None, *FUSIONS])
@pytest.mark.parametrize("name", ["hubert-layer", "hubert-group", "wavlm", "data2vec", "mel"])
def test_every_parameter_is_trained(name: str, fusion: SpeakerFusion | None) -> None:
    """Every parameter gets a gradient, even the embedding that stands for hidden frames."""
    model, (inputs, lengths) = make(name, fusion).train(), sounds()
    speakers = None if fusion is None else SPEAKERS
    found = model(inputs, lengths, hidden_frames(model.encoder, lengths), speakers)
    (found.logits_HL.square().mean() + found.front_end_square).backward()

    assert {
        name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
    } == set()
    assert model.encoder.mask_embedding is not None
    assert model.encoder.mask_embedding.requires_grad


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", ALL)
def test_an_embedding_reaches_its_speaker_alone(name: str, fusion: SpeakerFusion) -> None:
    """Another embedding of one utterance changes its frames, but not the others or their number."""
    model, (inputs, lengths) = make(name, fusion), sounds()
    hide, changed = hidden_frames(model.encoder, lengths), torch.tensor([0, 3, 1])
    with torch.inference_mode():
        before = model(inputs, lengths, hide, SPEAKERS).logits_HL.split(hide.sum(dim=1).tolist())
        after = model(inputs, lengths, hide, changed).logits_HL.split(hide.sum(dim=1).tolist())

    assert not torch.allclose(before[1], after[1])
    torch.testing.assert_close(before[0], after[0])
    torch.testing.assert_close(before[2], after[2])


@pytest.mark.parametrize("name", ["hubert-layer", "mel"])
def test_last_adds_the_embedding_to_the_output(name: str) -> None:
    """With `last`, the frames are f + e (papt-pldc, section 4)."""
    model, (inputs, lengths) = make(name, "last"), sounds()
    assert model.speakers is not None
    with torch.inference_mode():
        frames, mask = model.encoder(inputs, lengths)
        found, same = model.speakers.after_layers(frames, mask, SPEAKERS)

    torch.testing.assert_close(found, frames + model.speakers.table.weight[SPEAKERS].unsqueeze(1))
    assert torch.equal(mask, same)


def test_without_embeddings_the_encoder_is_untouched_by_the_seam() -> None:
    """An embedding of zeros changes nothing, whether it is added first or last."""
    inputs, lengths = sounds()
    plain = make("wavlm")
    hide = hidden_frames(plain.encoder, lengths)

    for fusion in ("last", "first"):
        model = make("wavlm", fusion)  # type: ignore[arg-type]
        assert model.speakers is not None
        torch.nn.init.zeros_(model.speakers.table.weight)
        model.load_state_dict(plain.state_dict(), strict=False)

        with torch.inference_mode():
            torch.testing.assert_close(
                model(inputs, lengths, hide, SPEAKERS).logits_HL,
                plain(inputs, lengths, hide).logits_HL,
            )


@pytest.mark.parametrize("name", ["hubert-layer", "hubert-group", "mel"])
def test_a_share_of_the_gradient_reaches_the_front_end(name: str) -> None:
    """The front end gets the share asked for, of the penalty too, and the layers behind it all."""
    (inputs, lengths), gradients = sounds(), {}
    for share in (0.1, 1.0):
        model = make(name, front_end_gradient=share)
        found = model(inputs, lengths, hidden_frames(model.encoder, lengths))
        (found.logits_HL.square().mean() + found.front_end_square).backward()
        front = next(model.encoder.front_end.parameters()).grad
        assert front is not None
        assert model.project.weight.grad is not None
        gradients[share] = front, model.project.weight.grad

    (front, behind), (whole, same) = gradients[0.1], gradients[1.0]
    torch.testing.assert_close(front, 0.1 * whole)
    torch.testing.assert_close(behind, same)


@pytest.mark.parametrize("name", ALL)
def test_the_penalty_does_not_depend_on_batchmates(name: str) -> None:
    """In a padded batch it is the mean over the real frames, computed from each utterance alone."""
    model, (inputs, lengths) = make(name), sounds()
    frames = model.encoder.num_frames(lengths)
    nothing = torch.zeros(len(lengths), int(frames.max()), dtype=torch.bool)

    with torch.inference_mode():
        together = model(inputs, lengths, nothing).front_end_square
        alone = [
            model(
                inputs[row : row + 1, :length],
                lengths[row : row + 1],
                nothing[row : row + 1, : int(frames[row])],
            ).front_end_square
            for row, length in enumerate(lengths.tolist())
        ]

    expected = (torch.stack(alone) * frames).sum() / frames.sum()
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-6)
    assert float(together) > 0

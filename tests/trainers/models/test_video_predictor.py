"""Masked reconstruction: the loss by hand, and how embeddings of speakers reach the encoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding, SpeakerFusion
from trainers.models.video_predictor import MaskedVideoPredictor, load_decoder

FUSIONS: tuple[SpeakerFusion, ...] = ("last", "first", "prefix")
WIDTH = 16
# Four places in each of two instants.
HIDE = torch.tensor([[True, False, True, False] * 2, [False, False, True, True] * 2])


def config() -> VideoMAEConfig:
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    small = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1}
    heads = {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    return VideoMAEConfig(**sizes, **small, **decoder, **heads, intermediate_size=32)


def predictor(fusion: SpeakerFusion | None = None) -> MaskedVideoPredictor:
    torch.manual_seed(0)
    speakers = None if fusion is None else SpeakerEmbedding(3, WIDTH, WIDTH, fusion)
    if speakers is not None:
        torch.nn.init.normal_(speakers.table.weight)

    made = MaskedVideoPredictor(LayerwiseEncoder(VideoMAEModel(config())), speakers=speakers)
    # Larger than a new model's, so that what is far from the output shows there.
    for name, parameter in made.named_parameters():
        if parameter.dim() > 1 and "speakers" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.fixture
def clips() -> Tensor:
    return torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_over_standardized_pixels_of_hidden_patches(clips: Tensor) -> None:
    """A decoder that answers 0 everywhere errs by the variance of each patch.

    Pixels of a patch are divided by their unbiased deviation, so that it is (n - 1) / n for the
    n = 2 x 8 x 8 of a patch and color.
    """
    made = predictor()
    head = made._whole.decoder.head
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    assert made(clips, HIDE).item() == pytest.approx(127 / 128, rel=1e-4)


def test_it_is_transformers_own_model_without_speakers(clips: Tensor) -> None:
    """With equal weights, the loss is that of `VideoMAEForPreTraining`."""
    made = predictor()
    whole = VideoMAEForPreTraining(config()).eval()
    whole.load_state_dict(made._whole.state_dict(), strict=False)
    whole.videomae.load_state_dict(made.encoder.model.state_dict())
    expected = whole(clips, bool_masked_pos=HIDE).loss
    torch.testing.assert_close(made(clips, HIDE), expected)


def test_the_encoder_does_not_see_hidden_patches(clips: Tensor) -> None:
    """Other pixels where a patch is hidden change no frame; elsewhere they do."""
    encoder, lengths = predictor().encoder, torch.full((2,), 4)
    frames, mask = encoder(clips, lengths, None, HIDE)
    assert mask.shape == frames.shape[:2] == (2, 4)

    # The first place is hidden in the first clip and not in the second.
    changed = clips.clone()
    changed[:, :, :, :8, :8] += 1.0
    again, _ = encoder(changed, lengths, None, HIDE)
    torch.testing.assert_close(again[0], frames[0])
    assert (again[1] - frames[1]).abs().max() > 0.01


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_speakers_embedding_reaches_the_reconstruction(
    fusion: SpeakerFusion, clips: Tensor
) -> None:
    """Exchanged speakers change the loss, and only embeddings of those in the batch learn."""
    made = predictor(fusion)
    loss = made(clips, HIDE, torch.tensor([0, 2]))
    exchanged = made(clips, HIDE, torch.tensor([2, 0]))
    assert abs(loss.item() - exchanged.item()) > 1e-4

    loss.backward()
    assert made.speakers is not None
    gradient = made.speakers.table.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[2].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


@pytest.mark.parametrize("fusion", [None, *FUSIONS])
def test_a_batchmate_changes_nothing(fusion: SpeakerFusion | None, clips: Tensor) -> None:
    """The loss of two clips is the mean of their own losses, whoever else is in the batch."""
    made, speakers = predictor(fusion), torch.tensor([0, 2])
    alone = [made(clips[n : n + 1], HIDE[n : n + 1], speakers[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(made(clips, HIDE, speakers), (alone[0] + alone[1]) / 2)


def test_the_decoder_of_a_pretrained_checkpoint_is_kept(tmp_path: Path, clips: Tensor) -> None:
    """Encoder and decoder of a checkpoint give its loss; an encoder alone brings no decoder."""
    torch.manual_seed(3)
    whole = VideoMAEForPreTraining(config()).eval()
    whole.save_pretrained(tmp_path / "whole")
    whole.videomae.save_pretrained(tmp_path / "encoder")

    encoder = load_encoder(str(tmp_path / "whole"))
    decoder = load_decoder(str(tmp_path / "whole"))
    made = MaskedVideoPredictor(encoder, decoder=decoder).eval()
    torch.testing.assert_close(made(clips, HIDE), whole(clips, bool_masked_pos=HIDE).loss)
    assert load_decoder(str(tmp_path / "encoder")) is None


def test_an_encoder_of_another_family_is_refused() -> None:
    """Masked reconstruction is VideoMAE's."""
    from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig

    encoder = LayerwiseEncoder(SequenceEncoder(SequenceEncoderConfig(front_end="face")))
    with pytest.raises(ConfigError, match="expected videomae"):
        MaskedVideoPredictor(encoder)

"""Frames of a set come out with mean 0 and deviation 1, whatever the padding or the batchmates."""

import torch

from tests.trainers.models.test_recognizer import make
from trainers.models.personal.frame_standardizer import FrameStandardizer


def test_frames_of_a_set_are_standardized_together() -> None:
    """By hand, over the real frames of both utterances of each set; padding stays 0."""
    hidden_NTD = torch.randn(4, 5, 3) * 4 + 2
    lengths_N, sets_N = torch.tensor([5, 3, 4, 2]), torch.tensor([0, 0, 1, 1])
    mask_NT = torch.arange(5) < lengths_N[:, None]
    found = FrameStandardizer(sets_N, None)(0, hidden_NTD, mask_NT)

    for number in (0, 1):
        mine = (sets_N == number)[:, None] & mask_NT
        frames_FD = hidden_NTD[mine]
        expected_FD = (frames_FD - frames_FD.mean(dim=0)) / frames_FD.std(dim=0, correction=0)
        torch.testing.assert_close(found.hidden_NTD[mine], expected_FD, atol=1e-4, rtol=1e-4)
    assert not found.hidden_NTD[~mask_NT].any()


def test_later_layers_see_what_they_would() -> None:
    """Only the first layer's input changes."""
    hidden_NTD, mask_NT = torch.randn(1, 5, 3), torch.ones(1, 5, dtype=torch.bool)
    found = FrameStandardizer(torch.tensor([0]), None)(1, hidden_NTD, mask_NT)
    assert found.hidden_NTD is hidden_NTD


def test_support_alone_says_what_a_speaker_is_like() -> None:
    """With a source, the other utterance does not count itself."""
    hidden_NTD, mask_NT = torch.randn(2, 6, 3) + 5, torch.ones(2, 6, dtype=torch.bool)
    sets_N, source_N = torch.tensor([0, 0]), torch.tensor([False, True])
    found = FrameStandardizer(sets_N, source_N)(0, hidden_NTD, mask_NT)

    support_TD = hidden_NTD[1]
    expected_TD = (hidden_NTD[0] - support_TD.mean(dim=0)) / support_TD.std(dim=0, correction=0)
    torch.testing.assert_close(found.hidden_NTD[0], expected_TD, atol=1e-4, rtol=1e-4)


def test_a_recognizer_answers_by_the_set() -> None:
    """An utterance is answered otherwise beside others of its set, but not beside other sets."""
    model = make("none", standardize_frames=True).eval()
    samples_NS, lengths_N = torch.randn(3, 8_000), torch.tensor([8_000, 6_000, 7_000])
    alone = model(samples_NS[:2], lengths_N[:2], torch.tensor([0, 0])).scores_NC
    apart = model(samples_NS, lengths_N, torch.tensor([0, 0, 1])).scores_NC
    joined = model(samples_NS, lengths_N, torch.tensor([0, 0, 0])).scores_NC

    assert model.hears_sets
    torch.testing.assert_close(apart[:2], alone, atol=1e-4, rtol=1e-4)
    assert (joined[:2] - alone).abs().max() > 1e-3

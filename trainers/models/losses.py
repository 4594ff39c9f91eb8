"""The papers' losses, each a function of tensors.

Shapes: B speakers, X numbers, N utterances, C classes, V values.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["dot", "cosine"]


def info_nce(
    first_BX: Tensor, second_BX: Tensor, temperature: float, similarity: Similarity = "dot"
) -> Tensor:
    """Measure how consistent two halves of each speaker's set are (L_NCE).

    This is Eq. 7 of setpeer-emoceleb, whose similarity is the dot product. It is computed in
    float32 whatever the precision, because dot products over the temperature reach hundreds. With
    one speaker there is nobody to tell this speaker from, and the loss is 0.
    """
    first_BX, second_BX = first_BX.float(), second_BX.float()
    if similarity == "cosine":
        first_BX, second_BX = F.normalize(first_BX, dim=1), F.normalize(second_BX, dim=1)

    similarity_BB = first_BX @ second_BX.T / temperature
    return F.cross_entropy(similarity_BB, torch.arange(len(first_BX), device=first_BX.device))


def ccc(predicted_N: Tensor, truth_N: Tensor, row_weights_N: Tensor | None = None) -> Tensor:
    """Concordance correlation coefficient with population variances; 0 if both inputs are constant.

    With weights, means and variances are the weighted ones: a row of weight 2 counts as two rows.
    """
    weights_N = torch.ones_like(truth_N) if row_weights_N is None else row_weights_N
    shares_N = (weights_N / weights_N.sum()).float()

    mean, truth_mean = shares_N @ predicted_N.float(), shares_N @ truth_N.float()
    off_N, truth_off_N = predicted_N.float() - mean, truth_N.float() - truth_mean
    spread = shares_N @ (off_N.square() + truth_off_N.square())

    return (
        2
        * (shares_N @ (off_N * truth_off_N))
        / (spread + (mean - truth_mean).square()).clamp_min(1e-8)
    )


def ccc_loss(predicted_NV: Tensor, truth_NV: Tensor, row_weights_N: Tensor | None = None) -> Tensor:
    """1 - CCC over the batch, averaged over the values (papt-pldc, section 5).

    `row_weights_N` weights the rows.
    """
    columns = zip(predicted_NV.unbind(1), truth_NV.unbind(1), strict=True)
    return torch.stack(
        [1 - ccc(predicted_N, truth_N, row_weights_N) for predicted_N, truth_N in columns]
    ).mean()


def soft_cross_entropy(
    logits_NC: Tensor,
    probs_NC: Tensor,
    class_weights_C: Tensor | None = None,
    row_weights_N: Tensor | None = None,
) -> Tensor:
    """Cross-entropy against distributions; against one-hot rows it is the usual cross-entropy.

    Each class counts with its weight. The sum is divided by the number of utterances, not by their
    weights as `F.cross_entropy` does: in a batch of one utterance its weight would cancel out.
    Weights whose mean over the training utterances is 1 keep the size of the loss.
    """
    weighted_NC = probs_NC if class_weights_C is None else probs_NC * class_weights_C
    if row_weights_N is not None:
        weighted_NC = weighted_NC * row_weights_N.unsqueeze(1)
    total = -(weighted_NC * F.log_softmax(logits_NC.float(), dim=-1)).sum()
    return total / probs_NC.sum().clamp_min(1e-8)


def class_balanced_cross_entropy(
    log_probs_NC: Tensor, probs_NC: Tensor, class_weights_C: Tensor | None = None
) -> Tensor:
    """Each utterance's cross-entropy against its distribution, times its weight [N].

    An utterance weighs sum_c w_c p_c, and its whole cross-entropy is multiplied by it, as in the
    code that the authors of two-stage-aver published; the loss is the mean over utterances. This is
    another loss than `soft_cross_entropy`, which weighs each class within the sum.
    """
    losses_N = -(probs_NC * log_probs_NC.float()).sum(dim=-1)
    return losses_N if class_weights_C is None else losses_N * (probs_NC @ class_weights_C.float())


def balanced_class_weights(counts_C: Tensor) -> Tensor:
    """Inverse class frequencies with mean 1 over the utterances; an absent class gets 0."""
    counts_C = counts_C.float()
    present = counts_C > 0
    return torch.where(present, counts_C.sum() / (present.sum() * counts_C.clamp_min(1.0)), 0.0)

"""Reads the part of HuBERT that only its pre-training needs: projection and label embeddings.

Masked prediction that goes on with the labels HuBERT was pre-trained on need not learn them again.
transformers' HubertModel leaves these tensors out, but a file that was converted from fairseq may
hold them, under fairseq's names.

Shapes: L labels, P width of the projection, D width of the encoder.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from shards.config import ConfigError

FROM_CHECKPOINT = "checkpoint"
WEIGHT_NAME, BIAS_NAME, LABELS_NAME = "final_proj.weight", "final_proj.bias", "label_embs_concat"
# fairseq's dictionary begins with <s>, <pad>, </s> and <unk>, which no frame is labeled with.
NUM_SPECIAL = 4


@dataclass(frozen=True, slots=True)
class PredictionHead:
    """`weight_PD` and `bias_P` project frames, `labels_LP` are what they are compared with."""

    weight_PD: Tensor
    bias_P: Tensor
    labels_LP: Tensor

    @property
    def size(self) -> int:
        """P, the width in which frames and labels are compared."""
        return int(self.labels_LP.shape[1])


def read_prediction_head(
    source: str, *, checkpoint: str | None, revision: str | None, num_labels: int, width: int
) -> PredictionHead:
    """The head in a safetensors file `source`, or, for `checkpoint`, that of encoder.checkpoint.

    Raises ConfigError when a tensor is missing, or when the head has other labels than
    `num_labels` or is made for another width than `width`.
    """
    where = f"model.prediction_head {source}"
    file = _file_of(source, checkpoint, revision)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{where}: {file} cannot be read as safetensors: {error}") from error

    if missing := [name for name in (WEIGHT_NAME, BIAS_NAME, LABELS_NAME) if name not in tensors]:
        raise ConfigError(
            f"{where}: {file} has no {', '.join(missing)}; expected these tensors under the names "
            "that fairseq's HuBERT has. Leave model.prediction_head out to learn new ones"
        )

    head = PredictionHead(
        tensors[WEIGHT_NAME].float(),
        tensors[BIAS_NAME].float(),
        _without_special(tensors[LABELS_NAME].float(), num_labels, where),
    )
    _require_fitting(head, width, where)
    return head


def _file_of(source: str, checkpoint: str | None, revision: str | None) -> str:
    if source != FROM_CHECKPOINT:
        if not Path(source).is_file():
            raise ConfigError(f"model.prediction_head {source}: no such file; check the path")
        return source

    where = {"revision": revision} if revision else {}
    try:
        found = cached_file(checkpoint, "model.safetensors", **where)
    except OSError as error:
        raise ConfigError(f"model.prediction_head: encoder.checkpoint: {error}") from error
    return str(found)


def _without_special(labels_LP: Tensor, num_labels: int, where: str) -> Tensor:
    """Leave out the rows of the dictionary's special symbols, if there are any."""
    if len(labels_LP) not in (num_labels, num_labels + NUM_SPECIAL):
        raise ConfigError(
            f"{where}: got {len(labels_LP)} label embeddings, but there are {num_labels} "
            f"pseudo-labels; expected {num_labels}, or {num_labels + NUM_SPECIAL} with fairseq's "
            "special symbols. Give model.label_centers and model.num_labels of the clusters that "
            "the head was trained with"
        )
    return labels_LP[-num_labels:]


def _require_fitting(head: PredictionHead, width: int, where: str) -> None:
    projected, expected = tuple(head.weight_PD.shape), (head.labels_LP.shape[1], width)
    if projected != expected or head.bias_P.shape != (expected[0],):
        raise ConfigError(
            f"{where}: got {WEIGHT_NAME} {list(projected)} and {BIAS_NAME} "
            f"{list(head.bias_P.shape)}, expected {list(expected)} and {[expected[0]]}, as the "
            "encoder's width and the label embeddings say; give the head of this encoder"
        )

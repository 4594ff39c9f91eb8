"""The emotion recogniser: an encoder, optionally personalised by a set of the speaker's utterances, and a head.

Personalised, it is SetPeER (setpeer-emoceleb, section IV): before every layer P makes Q embeddings of each set from the
layer's pooled input, and they enter as a prefix that is replaced at the next layer (`addition` and `cross_attention`
are the paper's other fusions). Without, it is the vanilla baseline. `source` separates the utterances a prefix is made
from and those it serves, which is what the controls with wrong or disjoint support need; by default they are the same.

Saved with `save_pretrained`, loaded with `from_pretrained`, whatever the encoder.

Shapes: N utterances, T frames, D width, B sets, Q embeddings, C classes or values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from trainers.losses import info_nce
from trainers.models.encoder import LayerwiseEncoder
from trainers.models.pooling import masked_mean
from trainers.models.sequence_encoder import LayerInput, SequenceEncoder, SequenceEncoderConfig
from trainers.models.speaker_prefix import PersonalizedFeatureExtractor

Fusion = Literal["none", "prefix", "addition", "cross_attention"]
NUM_HEADS = 4


class RecognizerConfig(PretrainedConfig):
    """`names` are the classes, or the values when `is_values`; `encoder` is the encoder's own configuration."""

    model_type = "emostream_recognizer"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        names: Sequence[str] = (),
        is_values: bool = False,
        modality: str = "audio",
        normalise: bool = False,
        head: Literal["linear", "interpreter"] = "linear",
        head_dropout: float = 0.1,
        fusion: Fusion = "none",
        extractor: dict[str, Any] | None = None,
        contrast_temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": SequenceEncoderConfig.model_type}
        self.names = list(names)
        self.is_values = is_values
        self.modality = modality
        self.normalise = normalise
        self.head = head
        self.head_dropout = head_dropout
        self.fusion = fusion
        self.extractor = extractor or {}
        self.contrast_temperature = contrast_temperature
        super().__init__(**kwargs)


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Recognition:
    """Scores [N, C] (logits, or values), pooled features [N, D], P's embeddings of each set averaged over layers and Q
    [B, D] (None without P), the codes used, and the loss terms P adds.
    """

    scores_NC: Tensor
    pooled_ND: Tensor
    speakers_BD: Tensor | None
    codes: tuple[Tensor, ...]
    terms: dict[str, Tensor]


class EmotionRecognizer(PreTrainedModel):
    """Utterances of one or more speakers to emotion classes or values."""

    config_class = RecognizerConfig
    main_input_name = "inputs"

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__(config)
        self.encoder = LayerwiseEncoder(_build_encoder(config.encoder), normalise=config.normalise)
        self.head = _build_head(config, self.encoder.width)
        self.extractor: PersonalizedFeatureExtractor | None = None
        self.cross_attention: nn.MultiheadAttention | None = None
        if config.fusion != "none":
            self.extractor = PersonalizedFeatureExtractor(
                self.encoder.width, len(self.encoder.layers), **config.extractor
            )
        if config.fusion == "cross_attention":
            self.cross_attention = nn.MultiheadAttention(self.encoder.width, NUM_HEADS, batch_first=True)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Each part's own initialisation stands."""

    def forward(self, inputs: Tensor, lengths: Tensor, sets: Tensor, source: Tensor | None = None) -> Recognition:
        """Recognise utterances of the sets `sets` [N]; prefixes are made from those where `source` [N] is true."""
        fuser = None
        if self.extractor is not None:
            everybody = torch.ones_like(sets, dtype=torch.bool)
            fuser = _Fuser(self, sets, everybody if source is None else source)
        frames_NTD, mask_NT = self.encoder(inputs, lengths, fuser)
        pooled_ND = masked_mean(frames_NTD, mask_NT)
        scores_NC = self.head(pooled_ND).float()
        if fuser is None:
            return Recognition(scores_NC, pooled_ND, None, (), {})
        return Recognition(scores_NC, pooled_ND, fuser.speakers(), tuple(fuser.codes), fuser.terms())


@dataclass(slots=True)
class _Fuser:
    """What happens before each layer of one forward pass."""

    recognizer: EmotionRecognizer
    sets_N: Tensor
    source_N: Tensor
    codes: list[Tensor] = field(default_factory=list)
    _embeddings: list[Tensor] = field(default_factory=list)
    _vq: list[Tensor] = field(default_factory=list)
    _nce: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
        assert self.recognizer.extractor is not None  # noqa: S101 (made only when there is one)
        pooled_ND = masked_mean(hidden_NTD, mask_NT)
        source, extractor = self.source_N, self.recognizer.extractor
        prefix = extractor(pooled_ND[source], self.sets_N[source], layer)
        self._embeddings.append(prefix.embeddings_BQD)
        self._vq.append(prefix.loss)
        if prefix.codes is not None:
            self.codes.append(prefix.codes)
        if self.recognizer.training:
            self._contrast(pooled_ND[source], self.sets_N[source], layer)
        return self._fuse(prefix.embeddings_BQD[self.sets_N], hidden_NTD, mask_NT)

    def speakers(self) -> Tensor:
        """P's embeddings of each set, averaged over layers and positions [B, D]."""
        return torch.stack(self._embeddings).mean(dim=(0, 2))

    def terms(self) -> dict[str, Tensor]:
        """L_VQ and L_NCE, averaged over layers."""
        terms = {"vq": torch.stack(self._vq).mean()}
        if self._nce:
            terms["nce"] = torch.stack(self._nce).mean()
        return terms

    def _fuse(self, prefix_NQD: Tensor, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
        prefix_NQD = prefix_NQD.to(hidden_NTD.dtype)
        taken_NQ = torch.ones(prefix_NQD.shape[:2], dtype=torch.bool, device=mask_NT.device)
        fusion = self.recognizer.config.fusion
        if fusion == "addition":
            return LayerInput(hidden_NTD + prefix_NQD, mask_NT)  # Q is 1
        if self.recognizer.cross_attention is not None:
            seen_NQD, _ = self.recognizer.cross_attention(
                prefix_NQD, hidden_NTD, hidden_NTD, key_padding_mask=~mask_NT, need_weights=False
            )
            return LayerInput(seen_NQD, taken_NQ)
        joined_NTD = torch.cat([prefix_NQD, hidden_NTD], dim=1)  # Eq. 6
        return LayerInput(joined_NTD, torch.cat([taken_NQ, mask_NT], dim=1), prefix_NQD.shape[1])

    def _contrast(self, pooled_ND: Tensor, sets_N: Tensor, layer: int) -> None:
        """Eq. 7 for this layer, over two random halves of each set; sets of one utterance have none."""
        halves = _halves(sets_N)
        if halves is None:
            return
        assert self.recognizer.extractor is not None  # noqa: S101 (made only when there is one)
        embeddings = []
        for rows, numbers in halves:
            found = self.recognizer.extractor(pooled_ND[rows], numbers, layer)
            embeddings.append(found.embeddings_BQD.flatten(1))
        self._nce.append(info_nce(embeddings[0], embeddings[1], self.recognizer.config.contrast_temperature))


def _halves(sets_N: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """Rows and set numbers (renumbered from 0) of two disjoint, equal halves of every set of at least two."""
    firsts: list[Tensor] = []
    seconds: list[Tensor] = []
    for number in range(int(sets_N.max()) + 1):
        rows = torch.nonzero(sets_N == number).flatten()
        half = len(rows) // 2
        if half:
            shuffled = rows[torch.randperm(len(rows), device=rows.device)]
            firsts.append(shuffled[:half])
            seconds.append(shuffled[half : 2 * half])
    if not firsts:
        return None
    numbers = torch.repeat_interleave(
        torch.arange(len(firsts), device=sets_N.device),
        torch.tensor([len(part) for part in firsts], device=sets_N.device),
    )
    return [(torch.cat(firsts), numbers), (torch.cat(seconds), numbers)]


def _build_encoder(values: dict[str, Any]) -> Any:
    """An encoder with fresh weights from its configuration."""
    if values["model_type"] == SequenceEncoderConfig.model_type:
        return SequenceEncoder(SequenceEncoderConfig.from_dict(values))
    rest = {name: value for name, value in values.items() if name != "model_type"}
    return AutoModel.from_config(AutoConfig.for_model(values["model_type"], **rest))


class _BatchNorm(nn.BatchNorm1d):
    """Uses what it has seen so far for a batch of one, which has no variance of its own."""

    def forward(self, hidden_ND: Tensor) -> Tensor:
        if self.training and len(hidden_ND) == 1:
            return F.batch_norm(hidden_ND, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(hidden_ND)


def _build_head(config: RecognizerConfig, width: int) -> nn.Module:
    """One linear layer, or PAPT's interpreter {128, 32} (papt-pldc, section 5)."""
    num_scores = len(config.names)
    if config.head == "linear":
        return nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(width, num_scores))
    parts: list[nn.Module] = []
    for before, after in pairwise((width, 128, 32)):
        parts += [nn.Linear(before, after), _BatchNorm(after), nn.ReLU(), nn.Dropout(config.head_dropout)]
    return nn.Sequential(*parts, nn.Linear(32, num_scores))

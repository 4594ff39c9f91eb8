"""The two-stage recognizer: one branch, or several with what joins them, as one model.

One class serves the whole family of two-stage-aver. A single branch is a model of stage 1. Several
branches are joined by shared layers (stage 2), or by the mean of their own answers (a control).
Branches that are kept are computed without gradients and without dropout, so what stage 2 sees of
them is what they gave in stage 1.

Where an utterance lacks the input of some branch, the mean of the probabilities that the other
branches give by themselves is the answer: with one branch left, it is exactly that branch's own.
Filling the gap with zeros in front of the joint head was the alternative. It is all that is left
for branches that never learned to answer alone (models 7 to 9), and a head that has met no zeros in
training answers anything.

Shapes: N utterances, T frames, D width, J branches, C classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shards.loading.inputs import InputName
from shards.loading.loader import Padded
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import build_encoder
from trainers.models.parts.layers import frame_mask
from trainers.models.two_stage.baselines.building import build_baseline
from trainers.models.two_stage.branch import Branch
from trainers.models.two_stage.configuration import TwoStageConfig
from trainers.models.two_stage.shared import SharedLayers, Stream

# An utterance without sound is heard as so many samples of silence, and then masked: encoders do
# not take utterances without a sample.
SILENT_SAMPLES = 400


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in __dict__
class Answers:
    """What the model answers to N utterances.

    `log_probs_NC` are logarithms of probabilities. `joint_N` says which utterances all branches
    answered together, and `heard_NJ` which branches had their input. `pooled` [N, J 2D] are the
    features in front of the head. Each of `learned` [N, C] learns the labels; None: `log_probs_NC`
    alone does.
    """

    log_probs_NC: Tensor
    joint_N: Tensor
    heard_NJ: Tensor
    pooled: Tensor
    learned: tuple[Tensor, ...] | None = None


class TwoStageRecognizer(PreTrainedModel):
    """Recognizes emotions from sound, from faces, or from both."""

    config_class = TwoStageConfig
    main_input_name = "inputs"

    def __init__(self, config: TwoStageConfig) -> None:
        super().__init__(config)
        sizes, num_classes = config.branch_configs, len(config.names)
        self.encoders = nn.ModuleList(
            LayerwiseEncoder(build_encoder(values), normalize=normalizes)
            for values, normalizes in zip(config.encoders, config.normalizes, strict=True)
        )
        self.branches = nn.ModuleList(Branch(one, num_classes) for one in sizes)

        self.shared: SharedLayers | None = None
        if config.fusion == "shared":
            self.shared = SharedLayers(
                config.shared_sizes,
                num_classes,
                num_streams=len(sizes),
                num_layers=config.num_shared_layers,
                head_width=config.head_width,
            )

        self.baseline = build_baseline(config)

        # Not registered as a part: these are parts already.
        self._kept: list[nn.Module] = []
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep each part's own initialization."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "TwoStageRecognizer":
        """Load what `save_pretrained` wrote. Raises ValueError for a folder that lacks weights."""
        model, found = super().from_pretrained(folder, output_loading_info=True, **options)
        if found["missing_keys"]:
            raise ValueError(
                f"{folder}: got a checkpoint without {', '.join(sorted(found['missing_keys']))}, "
                "expected one that this version exported; train it again"
            )

        return model

    @property
    def input_names(self) -> list[InputName]:
        """The inputs that the branches take, sound first."""
        wanted = {branch.config.input for branch in self._branches()}
        names: list[InputName] = ["sound", "face"]
        return [name for name in names if name in wanted]

    @property
    def feature_width(self) -> int:
        """How many numbers are in front of the head."""
        if self.baseline is not None:
            return self.baseline.feature_width
        return sum(2 * branch.config.hidden_size for branch in self._branches())

    @property
    def hears_sets(self) -> bool:
        """Whether it recognizes an utterance by others of the same speaker: it does not."""
        return False

    @property
    def clip_format(self) -> None:
        """The clips that it takes: it sees no video, but features of faces."""
        return None

    def keep(self, *parts: nn.Module) -> None:
        """Train `parts` no more: no gradients, and no dropout in training."""
        for part in parts:
            part.requires_grad_(False)
            part.eval()
        self._kept += parts

    def train(self, mode: bool = True) -> "TwoStageRecognizer":
        """Switch to training, in which kept parts stay as they are in evaluation."""
        super().train(mode)
        for part in self._kept:
            part.eval()
        return self

    def forward(self, inputs: Mapping[InputName, Padded]) -> Answers:
        """Recognize utterances by their inputs; each has at least one that some branch takes."""
        streams = self.streams(inputs)
        heard_NJ = torch.stack([mask_NT.any(dim=1) for _, mask_NT in streams], dim=1)
        joint_N = heard_NJ.all(dim=1)

        if self.baseline is not None:
            joined = self.baseline(streams)
            return Answers(joined.log_probs_NC, joint_N, heard_NJ, joined.pooled, joined.learned)

        if self.shared is None:
            logits, pooled = self._own_answers(streams)
            return Answers(_mean_answer(logits, heard_NJ), joint_N, heard_NJ, pooled)

        pooled = self.shared.pooled(streams)
        log_probs_NC = self.shared.answer(pooled).log_softmax(dim=-1)
        if self.config.branches_answer:
            logits, _ = self._own_answers(streams)
            alone_NC = _mean_answer(logits, heard_NJ)
            log_probs_NC = torch.where(joint_N[:, None], log_probs_NC, alone_NC)

        return Answers(log_probs_NC, joint_N, heard_NJ, pooled)

    def streams(self, inputs: Mapping[InputName, Padded]) -> list[Stream]:
        """Compute each branch's frames [N, T, D] and their mask [N, T].

        In place of `sound`, the inputs may hold the `states` of the model's only encoder.
        """
        if "states" in inputs:
            states = [_stored(inputs["states"])]
        else:
            states = [self._states(encoder, inputs["sound"]) for encoder in self._encoders()]

        found = []
        for branch in self._branches():
            with self._gradients_of(branch):
                if branch.config.encoder is None:
                    face = _with_a_frame(inputs["face"], branch.config.feature_size)
                    found.append(branch(face.values, face.lengths))
                else:
                    found.append(branch(*states[branch.config.encoder]))
        return found

    def parameter_counts(self) -> dict[str, int]:
        """How many numbers each part has, and how many of all are trained."""
        parts: dict[str, nn.Module | None] = {
            "encoders": self.encoders,
            "branches": self.branches,
            "shared": self.shared if self.baseline is None else self.baseline,
        }
        counts = {
            name: 0 if part is None else sum(p.numel() for p in part.parameters())
            for name, part in parts.items()
        }
        return counts | {
            "all": sum(p.numel() for p in self.parameters()),
            "trained": sum(p.numel() for p in self.parameters() if p.requires_grad),
        }

    def _states(self, encoder: LayerwiseEncoder, sound: Padded) -> tuple[list[Tensor], Tensor]:
        """All hidden states [N, T, F] of the sound, and their mask, false for absent sound."""
        is_there_N = sound.lengths > 0
        missing = max(0, SILENT_SAMPLES - sound.values.shape[1])
        values_NS = nn.functional.pad(sound.values, (0, missing))

        with self._gradients_of(encoder):
            lengths_N = torch.where(is_there_N, sound.lengths, SILENT_SAMPLES)
            states, mask_NT = encoder.hidden_states(values_NS, lengths_N)
        return states, mask_NT & is_there_N[:, None]

    def _own_answers(self, streams: Sequence[Stream]) -> tuple[list[Tensor], Tensor]:
        """The logits [N, C] of each branch by itself, and the features [N, J 2D] behind them."""
        logits, pooled = [], []
        for branch, stream in zip(self._branches(), streams, strict=True):
            with self._gradients_of(branch):
                pooled.append(branch.pooled(*stream))
                logits.append(branch.answer(pooled[-1]))

        return logits, torch.cat(pooled, dim=1)

    def _gradients_of(self, part: nn.Module) -> Any:
        """No gradients for a part that is kept: its activations need no memory."""
        is_kept = any(part is kept for kept in self._kept)
        return torch.no_grad() if is_kept else nullcontext()

    def _encoders(self) -> list[LayerwiseEncoder]:
        return list(self.encoders)  # type: ignore[arg-type]  # they are nothing else

    def _branches(self) -> list[Branch]:
        return list(self.branches)  # type: ignore[arg-type]  # they are nothing else


def _mean_answer(logits: Sequence[Tensor], heard_NJ: Tensor) -> Tensor:
    """Logarithms of the mean of the probabilities [N, C], over the branches with an input."""
    log_probs_NJC = torch.stack([one.log_softmax(dim=-1) for one in logits], dim=1)
    if log_probs_NJC.shape[1] == 1:
        return log_probs_NJC[:, 0]

    heard_only_NJC = log_probs_NJC.masked_fill(~heard_NJ[:, :, None], -torch.inf)
    return heard_only_NJC.logsumexp(dim=1) - heard_NJ.sum(dim=1, keepdim=True).log()


def _stored(states: Padded) -> tuple[list[Tensor], Tensor]:
    """All hidden states [N, T, F] as they were stored, and their mask."""
    values_NTSF = states.values
    if values_NTSF.shape[1] == 0:
        values_NTSF = values_NTSF.new_zeros(len(values_NTSF), 1, *values_NTSF.shape[2:])
    return list(values_NTSF.unbind(dim=2)), frame_mask(states.lengths, values_NTSF.shape[1])


def _with_a_frame(face: Padded, feature_size: int) -> Padded:
    """The same, but with room for a frame where no utterance of the batch has any."""
    if face.values.dim() == 3 and face.values.shape[1] > 0:
        return face
    return Padded(face.values.new_zeros(len(face.lengths), 1, feature_size), face.lengths)

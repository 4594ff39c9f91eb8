"""What a two-stage model is made of, as its config.json holds it (two-stage-aver, section IV)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from transformers import PretrainedConfig

from shards.loading.inputs import InputName
from shards.loading.targets import TargetKind

Positions = Literal["sinusoidal", "none"]
# How branches come to one answer. `none`: there is one branch. `shared`: by the shared layers.
# `average`: by the mean of the branches' own probabilities.
# `baseline`: as the architecture says.
Fusion = Literal["none", "shared", "average", "baseline"]
Architecture = Literal["branches", "vavl", "auxformer", "mult", "sfav", "tsltm"]
# How SFAV joins streams: late or intermediate transformer, intermediate attention.
SfavFusion = Literal["lt", "it", "ia"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchConfig:
    """The sizes of one branch, and the labels that it learned.

    A branch of sound weighs the `num_states` hidden states of the model's encoder number `encoder`.
    A branch of faces convolves features; it has one "state" and no encoder. `feature_size` numbers
    make a frame of a state or of a face. `labels` names the stimulus that the raters were given.
    Without a `head_width` the branch has no head and cannot answer by itself.
    """

    input: InputName
    labels: str
    feature_size: int
    num_states: int = 1
    encoder: int | None = None
    kernel_size: int = 3
    stride: int = 1
    positions: Positions = "sinusoidal"
    hidden_size: int = 512
    num_layers: int = 3
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    dropout_probability: float = 0.1
    head_width: int | None = 512

    def as_values(self) -> dict[str, Any]:
        """The fields as config.json holds them."""
        return asdict(self)


class TwoStageConfig(PretrainedConfig):
    """Branches, what joins them, and what the model was trained on.

    `names` are the classes. `encoders` are the configurations of the speech encoders, of which
    `normalizes` says whether waveforms are normalized for each. `num_shared_layers`, `head_width`
    and `dropout_probability` are those of the shared layers. A baseline is an `architecture` other
    than `branches`, with `num_joint_layers` and, for SFAV, `sfav_fusion`. `parameter_counts` says
    how many numbers each part has, and `trained_on` what the model learned from, as in
    `RecognizerConfig`.
    """

    model_type = "emostream_two_stage"

    def __init__(
        self,
        names: Sequence[str] = (),
        encoders: Sequence[dict[str, Any]] = (),
        normalizes: Sequence[bool] = (),
        branches: Sequence[dict[str, Any]] = (),
        fusion: Fusion = "none",
        architecture: Architecture = "branches",
        sfav_fusion: SfavFusion = "lt",
        num_joint_layers: int = 3,
        num_shared_layers: int = 2,
        head_width: int = 512,
        dropout_probability: float = 0.1,
        labels: str = "audiovisual",
        parameter_counts: dict[str, int] | None = None,
        trained_on: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.names = list(names)
        self.encoders = list(encoders)
        self.normalizes = list(normalizes)
        self.branches = list(branches)
        self.fusion = fusion
        self.architecture = architecture
        self.sfav_fusion = sfav_fusion
        self.num_joint_layers = num_joint_layers
        self.num_shared_layers = num_shared_layers
        self.head_width = head_width
        self.dropout_probability = dropout_probability
        self.labels = labels
        self.parameter_counts = parameter_counts or {}
        self.trained_on = trained_on or {}
        super().__init__(**kwargs)

    @property
    def branch_configs(self) -> list[BranchConfig]:
        """The sizes of each branch."""
        return [BranchConfig(**values) for values in self.branches]

    @property
    def branches_answer(self) -> bool:
        """Whether every branch can answer by itself, where another one's input is missing."""
        return all(branch.head_width is not None for branch in self.branch_configs)

    @property
    def target_kind(self) -> TargetKind:
        """Which kind of target the `names` stand for."""
        return "ratings"

    @property
    def shared_sizes(self) -> BranchConfig:
        """The sizes of the shared layers, which are as wide as the branches."""
        return replace(self.branch_configs[0], dropout_probability=self.dropout_probability)

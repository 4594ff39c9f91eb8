"""Options of `two-stage` (two-stage-aver); they need no torch.

The models of Table 1 differ in options alone. Models 1 to 3 are `inputs=audio` with the labels of
each stimulus, 4 to 6 `inputs=face`, 7 to 9 `inputs=both`. Models 10, 11 and 12 name the runs of
models 3 and 6, 1 and 5, and all four of these in `branches`.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from shards.config import ConfigError, option, require_at_least, require_positive, require_share
from shards.loading.targets import Stimulus
from trainers.recipes.recipe import Recipe, RecipeConfig, Run
from trainers.settings.encoder import EncoderConfig

# In a path of `branches`, this stands for `data.fold`.
FOLD_PLACE = "{fold}"
# Options that change the sizes of branches, which trained branches have already.
_BRANCH_SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "feed_forward",
    "kernel_size",
    "stride",
    "positions",
    "standardize_face",
    "trains_encoder",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageOptions(RecipeConfig):
    """Options of a branch, of branches trained together, and of what joins trained branches."""

    against_class_balance: ClassVar[str | None] = (
        "an utterance has several labels; model.class_weights=balanced makes up for rare classes"
    )

    architecture: Literal["branches", "vavl", "auxformer", "mult", "sfav", "tsltm"] = option(
        help="Kind of model. branches: streams of transformer layers, joined by shared layers. The "
        "others are baselines of sound and faces, which need model.inputs=both.",
        default="branches",
    )
    sfav_fusion: Literal["lt", "it", "ia"] = option(
        help="Where sfav joins sound and faces. lt: a transformer after all convolutions; it: a "
        "transformer halfway, added to each stream; ia: attention halfway, which weighs frames.",
        default="lt",
    )
    inputs: Literal["audio", "face", "both"] | None = option(
        help="What the model is given. audio: the sound; face: the features in face.npy; both: a "
        "branch for each, trained together with the layers that join them. To be given where "
        "model.branches is not.",
        default=None,
    )
    branches: tuple[str, ...] = option(
        help="Trained branches to join, as exports of this recipe: runs/3/best,runs/6/best. They "
        "are kept as they are. In a path, {fold} stands for data.fold.",
        default=(),
    )
    join: Literal["shared", "average"] = option(
        help="How model.branches come to one answer. shared: by layers that are trained, the "
        "paper's stage 2; average: by the mean of their own probabilities, without training.",
        default="shared",
    )
    labels: Stimulus = option(
        help="Ratings to learn, by what the raters had. voice: the sound alone; face: the picture "
        "alone; audiovisual: both. data.target.stimulus says which ratings the model is measured "
        "against.",
        default="audiovisual",
    )
    permuted_labels: bool = option(
        help="Control: each utterance learns the ratings of another one, drawn at random, so that "
        "a gain by this branch in stage 2 is no gain by its labels.",
        default=False,
    )

    hidden_size: int = option(help="Width of a branch and of the shared layers.", default=512)
    num_layers: int = option(
        help="Number of transformer layers of a branch; with auxformer, mult and tsltm, of each "
        "part that joins streams.",
        default=3,
    )
    num_heads: int = option(help="Number of attention heads of every layer.", default=8)
    feed_forward: int = option(
        help="Feed-forward width of every layer; the paper does not state it.", default=2048
    )
    num_shared_layers: int = option(
        help="Number of residual layers that all branches go through.", default=2
    )
    head_width: int = option(
        help="Numbers between the two layers of a head; the paper does not state it.", default=512
    )
    dropout: float = option(
        help="Dropout in layers and heads; the paper does not state it.", default=0.1
    )
    kernel_size: int = option(
        help="Frames that the convolution over face features sees, an odd number; the paper does "
        "not state it.",
        default=3,
    )
    stride: int = option(
        help="Frames from one step of that convolution to the next; the paper does not state it.",
        default=1,
    )
    positions: Literal["sinusoidal", "none"] = option(
        help="What tells a branch's layers the place of a frame; the paper does not state it.",
        default="sinusoidal",
    )
    standardize_face: bool = option(
        help="Whether each face feature gets the mean 0 and the deviation 1 of the training set.",
        default=True,
    )
    trains_encoder: bool = option(
        help="Whether the speech encoder learns too. The paper keeps a pretrained one as it is. "
        "Without encoder.checkpoint, an encoder that is kept has random weights.",
        default=False,
    )

    features: Literal["computed", "stored"] = option(
        help="Where the encoder's hidden states come from in training. computed: from the encoder, "
        "in every epoch; stored: from model.features_folder, which must hold all layers. The "
        "export has the encoder in both cases, and `evaluate` computes.",
        default="computed",
    )
    features_folder: str | None = option(
        help="Folder that `emostream features --layers all` wrote for these shards, by the encoder "
        "of this run or of its branches.",
        default=None,
    )

    class_weights: Literal["balanced", "none"] = option(
        help="balanced: an utterance's loss is multiplied by the weights of its classes, larger "
        "for rare ones, as in the paper; none: all utterances count alike.",
        default="balanced",
    )
    class_weight_beta: float | None = option(
        help="beta of these weights (Cui et al.), for example 0.9999. Without it, (N - 1) / N for "
        "N training utterances.",
        default=None,
    )
    best_by: Literal["loss", "macro_f1"] = option(
        help="Figure of the validation split that decides which model becomes RUN/best. loss: of "
        "the labels that are learned; macro_f1: against data.target.stimulus.",
        default="loss",
    )

    def __post_init__(self) -> None:
        require_positive(self, "hidden_size", "num_layers", "num_heads", "feed_forward")
        require_positive(self, "head_width", "kernel_size", "stride")
        require_at_least(self, 1, "num_shared_layers")
        require_share(self, "dropout")

        if self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise ConfigError(
                f"hidden_size: got {self.hidden_size}, expected an even multiple of num_heads "
                f"{self.num_heads}"
            )
        if self.kernel_size % 2 == 0:
            raise ConfigError(
                f"kernel_size: got {self.kernel_size}, expected an odd number, so that a step of "
                "the convolution is about the frame in its middle"
            )
        if self.class_weight_beta is not None and not 0 < self.class_weight_beta < 1:
            raise ConfigError(
                f"class_weight_beta: got {self.class_weight_beta}, expected a number between 0 and "
                "1, such as 0.9999"
            )
        self._check_architecture()
        self._check_features()
        self._check_stage()

    def _check_features(self) -> None:
        if (self.features == "stored") != (self.features_folder is not None):
            raise ConfigError(
                f"model.features, model.features_folder: got {self.features} and "
                f"{self.features_folder}, expected a folder exactly for stored"
            )
        if self.features == "stored" and (self.inputs == "face" or self.trains_encoder):
            why = "faces have no encoder" if self.inputs == "face" else "the encoder changes"
            raise ConfigError(f"model.features: got stored, but {why}; expected computed")

    def _check_architecture(self) -> None:
        if self.architecture != "branches" and self.inputs != "both":
            raise ConfigError(
                f"model.architecture: got {self.architecture} with model.inputs={self.inputs}, "
                "expected inputs=both: it joins sound and faces in one training"
            )
        if self.architecture != "sfav" and self.sfav_fusion != "lt":
            raise ConfigError(
                f"model.sfav_fusion: got {self.sfav_fusion} for {self.architecture}, which is no "
                "SFAV; leave it out, or give model.architecture=sfav"
            )

    def _check_stage(self) -> None:
        if (self.inputs is None) == (not self.branches):
            raise ConfigError(
                f"model.inputs, model.branches: got {'both' if self.inputs else 'neither'}, "
                "expected one of them: inputs for a model of stage 1 or one in a single step, "
                "branches for trained branches to join"
            )
        if not self.branches:
            if self.join != "shared":
                raise ConfigError(
                    f"model.join: got {self.join} without model.branches, whose own answers it "
                    "needs; name trained branches, or leave it out"
                )
            return

        if len(self.branches) < 2:
            raise ConfigError(
                f"model.branches: got {self.branches[0]}, expected at least two branches to join"
            )
        if changed := _changed(self, type(self)(inputs="audio"), _BRANCH_SIZES):
            raise ConfigError(
                f"{', '.join(f'model.{name}' for name in changed)}: got a value for trained "
                "branches, which bring their own; leave it out"
            )
        if self.labels != "audiovisual" or self.permuted_labels:
            raise ConfigError(
                "model.labels, model.permuted_labels: got a value for model.branches, expected "
                "none: what joins branches learns the audio-visual ratings; train the branches "
                "with other labels"
            )

    def check(self, run: Run) -> None:
        """Refuse targets other than ratings, and options of an encoder that is not there."""
        if run.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, whose inputs are those "
                "of model.inputs; leave it out"
            )
        # With branches, the target may be left out: theirs is taken.
        if run.data.target.kind != "ratings" and not (
            self.branches and run.data.target.kind == "label"
        ):
            raise ConfigError(
                f"data.target.kind: got {run.data.target.kind} for {run.recipe}, expected ratings; "
                "give --set data.target.kind=ratings, and import the votes with `emostream import "
                "--ratings` if the shards have none"
            )
        if run.data.num_utterances is not None:
            raise ConfigError(
                f"data.num_utterances: got {run.data.num_utterances} for {run.recipe}, which has "
                "no classes to divide them by; leave it out, or give data.num_speakers"
            )

        self._check_encoder(run)

    def _check_encoder(self, run: Run) -> None:
        given = _changed(run.encoder, EncoderConfig(), [one.name for one in fields(EncoderConfig)])
        if given and (self.branches or self.inputs == "face"):
            why = "trained branches bring theirs" if self.branches else "faces need none"
            raise ConfigError(
                f"{', '.join(f'encoder.{name}' for name in given)}: got a value, but {why}; leave "
                "it out"
            )
        if run.encoder.lora_rank or run.encoder.augments:
            raise ConfigError(
                "encoder.lora_rank, encoder.mask_time_probability, "
                f"encoder.mask_channel_probability: got a value for {run.recipe}, which weighs the "
                "states of an encoder as it is; fine-tune one first with finetune, and give it as "
                "encoder.checkpoint"
            )


def _changed(options: object, default: object, names: list[str] | tuple[str, ...]) -> list[str]:
    """The names of the options that differ from their defaults."""
    return [name for name in names if getattr(options, name) != getattr(default, name)]


RECIPES = {
    "two-stage": Recipe(
        summary="audio-visual recognition from people's votes: branches of sound and of faces "
        "that learn the ratings of one stimulus each, then layers that join them",
        config=TwoStageOptions,
        task="trainers.recipes.two_stage.variants:make_task",
    ),
}

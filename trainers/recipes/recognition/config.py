"""Options of `finetune`, `setpeer`, `weighting` and `speaker-normalized`; they need no torch.

`setpeer` is described in setpeer-emoceleb, section IV.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from shards.config import ConfigError, option, require_at_least, require_positive, require_share
from trainers.recipes.recipe import Recipe, RecipeConfig, Run

P_HEADS = 4  # attention heads within SetPeER's P
# Options of the groups engine and encoder that mean something without gradient steps.
FITTED_ENGINE_OPTIONS = ("seed", "trackers")
FITTED_ENCODER_OPTIONS = ("checkpoint", "revision")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionConfig(RecipeConfig):
    """What all recipes of the family share."""

    class_weights: Literal["none", "balanced"] = option(
        help="balanced weighs classes by their inverse frequency", default="none"
    )

    def head_fields(self) -> dict[str, Any]:
        """The fields of the recognizer's configuration that describe its head."""
        return {}

    @property
    def learns_from_sets(self) -> bool:
        """Whether batches are made of sets of a speaker's utterances."""
        return False

    def check(self, run: Run) -> None:
        """Refuse to balance classes twice, or for a target without classes."""
        is_balanced = run.data.sampling == "class_balanced"
        if is_balanced and run.data.target.kind == "values":
            raise ConfigError(
                "data.sampling: got class_balanced for data.target.kind values, which has no "
                "classes; expected shuffled"
            )
        if is_balanced and self.class_weights != "none":
            raise ConfigError(
                f"model.class_weights: got {self.class_weights} with data.sampling=class_balanced, "
                "which would make up for rare classes twice; give one of the two"
            )
        if self.class_weights != "none" and run.data.target.kind == "values":
            raise ConfigError(
                f"model.class_weights: got {self.class_weights} for data.target.kind values, which "
                "has no classes; expected none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(RecognitionConfig):
    """The vanilla baseline: encoder, mean pooling, head."""

    against_class_balance: ClassVar[str | None] = None

    head: Literal["linear", "two_layer", "interpreter"] = option(
        help="linear is one layer; two_layer has head_width numbers and ReLU between two; "
        "interpreter is PAPT's {128, 32} with batch norm",
        default="linear",
    )
    head_width: int = option(help="numbers between the layers of the head two_layer", default=256)
    head_dropout: float = option(help="dropout in the head", default=0.1)
    standardize_frames: bool = option(
        help="whether the frames that enter the encoder's first layer are standardized by the "
        "speaker's own, over a set of utterances; batches are then those of data.sets. It helps "
        "where training speakers are few",
        default=False,
    )

    def __post_init__(self) -> None:
        require_share(self, "head_dropout")
        require_positive(self, "head_width")

    def head_fields(self) -> dict[str, Any]:
        """The head, its width and its dropout, and what is standardized before it."""
        return {
            "head": self.head,
            "head_width": self.head_width,
            "head_dropout": self.head_dropout,
            "standardize_frames": self.standardize_frames,
        }

    @property
    def learns_from_sets(self) -> bool:
        """Whether batches are made of sets of a speaker's utterances."""
        return self.standardize_frames

    def check(self, run: Run) -> None:
        """Refuse to choose utterances by class where sets are to be like those met later."""
        RecognitionConfig.check(self, run)
        if self.learns_from_sets and run.data.sampling == "class_balanced":
            raise ConfigError(
                "data.sampling: got class_balanced with model.standardize_frames, which hears sets "
                "of a speaker's utterances; expected shuffled"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPeerConfig(FinetuneConfig):
    """Options of SetPeER.

    The defaults are the paper's. The paper lacks only the two options that keep a small codebook in
    use, and both are off.
    """

    against_class_balance: ClassVar[str | None] = (
        "a speaker's sets must be like those that the model will meet, with the speaker's own "
        "share of each class; model.class_weights=balanced makes up for rare classes in the loss"
    )

    fusion: Literal["prefix", "addition", "cross_attention"] = option(
        help="how P's embeddings enter the encoder", default="prefix"
    )
    num_prefixes: int = option(
        help="Q, embeddings of a speaker for each layer; addition has 1", default=4
    )
    code_width: int = option(help="C, width inside P", default=64)
    num_codes: int = option(help="M, entries of the codebook", default=512)
    quantized: bool = option(help="whether P has a codebook", default=True)
    normalize_codes: bool = option(
        help="whether a layer norm precedes the codebook",
        default=False,
        former=("normalise_codes",),
    )
    restart_codes: bool = option(
        help="whether codes that stay unused start again elsewhere", default=False
    )
    commitment: float = option(help="weight of the commitment term within L_VQ", default=0.25)
    classification_weight: float = option(help="lambda_1", default=1.0)
    contrastive_weight: float = option(
        help="lambda_2, weight of L_NCE; 0 trains without L_NCE", default=0.1
    )
    vq_weight: float = option(help="lambda_3", default=0.1)
    temperature: float = option(help="tau, temperature of L_NCE", default=0.1)
    similarity: Literal["dot", "cosine"] = option(
        help="similarity by which L_NCE compares halves; Eq. 7 has dot", default="dot"
    )

    @property
    def learns_from_sets(self) -> bool:
        """Whether batches are made of sets of a speaker's utterances."""
        return True

    def __post_init__(self) -> None:
        FinetuneConfig.__post_init__(self)
        require_positive(self, "num_prefixes", "code_width", "num_codes", "temperature")

        if self.code_width % P_HEADS:
            raise ConfigError(
                f"code_width: got {self.code_width}, expected a multiple of P's {P_HEADS} heads"
            )

        if self.fusion == "addition" and self.num_prefixes != 1:
            raise ConfigError(
                f"num_prefixes: got {self.num_prefixes}, expected 1 for fusion addition"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightingConfig(FinetuneConfig):
    """Options of weighting, in which speakers like the target speakers weigh more.

    These are training speakers who sound most like the target speakers (Sridhar and Busso 2022).
    """

    target_split: str = option(
        help="split of the target speakers; its sound is read, its labels are not", default="test"
    )
    neighbors: int = option(
        help="nearest training speakers of each target speaker that weigh more",
        default=5,
        former=("neighbours",),
    )
    weight: float = option(
        help="weight of these speakers' utterances in the loss; all others weigh 1", default=2.0
    )
    functionals: Literal["cepstra", "compare", "encoder"] = option(
        help="what speakers are compared by. cepstra: means and deviations over time of cepstra, "
        "of the face features for data.modality=face, and of the coarse colors of pictures for "
        "video (give data.faces.detector, so that they are of faces); compare: openSMILE's ComParE "
        "(extra: opensmile, research license); encoder: mean frames of encoder.checkpoint",
        default="cepstra",
    )
    num_components: int = option(
        help="most Gaussians of a speaker, who gets one for every ten utterances", default=4
    )
    explained_variance: float = option(
        help="share of the functionals' variance that the PCA keeps", default=0.95
    )

    def __post_init__(self) -> None:
        FinetuneConfig.__post_init__(self)
        require_positive(self, "neighbors", "num_components")

        if not self.weight > 1.0:
            raise ConfigError(f"weight: got {self.weight}, expected more than 1")
        if not 0.0 < self.explained_variance < 1.0:
            raise ConfigError(
                f"explained_variance: got {self.explained_variance}, expected a share between 0 "
                "and 1"
            )

        if self.target_split == "train":
            raise ConfigError(
                "target_split: got train, expected the split that the model is meant for, such as "
                "test"
            )

    def check(self, run: Run) -> None:
        """Refuse to compare speakers by an encoder that is not there, or by ComParE of faces."""
        FinetuneConfig.check(self, run)
        if self.functionals == "encoder" and run.encoder.checkpoint is None:
            raise ConfigError(
                "model.functionals: got encoder without encoder.checkpoint; name a trained "
                "encoder, or compare speakers by cepstra"
            )
        if self.functionals == "compare" and run.data.modality != "audio":
            raise ConfigError(
                f"model.functionals: got compare for data.modality {run.data.modality}, expected "
                "cepstra or encoder, because ComParE is for sound"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerNormalizedConfig(RecognitionConfig):
    """Options of the baseline that knows a speaker by mean and deviation alone."""

    against_class_balance: ClassVar[str | None] = (
        "it is fitted to all utterances at once; model.class_weights=balanced makes up for rare "
        "classes"
    )

    regularization: tuple[float, ...] = option(
        help="strengths of the L2 penalty that are tried, as penalty / number of utterances; the "
        "best on the validation split is kept",
        default=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001),
    )
    hidden_units: int = option(
        help="units of a hidden layer between features and answers (a small MLP); 0: none, which "
        "is logistic regression, or ridge regression for values",
        default=0,
    )
    prior_utterances: float = option(
        help="number of utterances of every speaker that the training speakers count as, in the "
        "deviation by which this speaker is standardized; 0: the speaker's own alone",
        default=8.0,
    )
    set_sizes: tuple[int, ...] = option(
        help="numbers of a training speaker's utterances that are standardized together, each of "
        "which gives a copy of the training set; 0: all. Small numbers prepare the model for "
        "speakers of whom little is heard",
        default=(2, 8, 0),
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "hidden_units", "prior_utterances")
        if not self.regularization or min(self.regularization) <= 0:
            raise ConfigError(
                f"regularization: got {self.regularization}, expected one or more strengths above 0"
            )
        if not self.set_sizes or min(self.set_sizes) < 0:
            raise ConfigError(
                f"set_sizes: got {self.set_sizes}, expected one or more numbers of utterances, or "
                "0 for all"
            )

    @property
    def learns_from_sets(self) -> bool:
        """Whether the model hears sets of a speaker's utterances."""
        return True

    def head_fields(self) -> dict[str, Any]:
        """The head, and the prior of the speaker's mean and deviation."""
        hidden = {"head": "two_layer", "head_width": self.hidden_units} if self.hidden_units else {}
        return {"head_dropout": 0.0, "speaker_prior": self.prior_utterances, **hidden}

    def check(self, run: Run) -> None:
        """Refuse video, and options of gradient steps, which there are none of."""
        RecognitionConfig.check(self, run)
        if run.data.modality == "video" and run.encoder.checkpoint is None:
            raise ConfigError(
                "data.modality: got video for speaker-normalized, expected audio or face, whose "
                "statistics are measured; or give encoder.checkpoint"
            )

        meaningless = [
            *(f"engine.{name}" for name in _changed(run.engine, FITTED_ENGINE_OPTIONS)),
            *(f"encoder.{name}" for name in _changed(run.encoder, FITTED_ENCODER_OPTIONS)),
        ]
        if meaningless:
            raise ConfigError(
                f"{', '.join(meaningless)}: speaker-normalized takes no gradient steps and trains "
                "no encoder, so these options mean nothing to it; leave them out"
            )


def _changed(group: Any, allowed: tuple[str, ...]) -> Iterator[str]:
    """The names of the options that differ from their defaults and are not among `allowed`."""
    default = type(group)()
    for item in fields(group):
        if item.name not in allowed and getattr(group, item.name) != getattr(default, item.name):
            yield item.name


RECIPES = {
    "finetune": Recipe(
        summary="the vanilla baseline: an encoder, mean pooling, a head",
        config=FinetuneConfig,
        task="trainers.recipes.recognition.task:RecognitionTask",
    ),
    "setpeer": Recipe(
        summary="finetune, personalized: a set of the speaker's utterances steers every layer "
        "(SetPeER)",
        config=SetPeerConfig,
        task="trainers.recipes.recognition.setpeer:SetPeerTask",
    ),
    "weighting": Recipe(
        summary="finetune with more weight on training speakers who sound like the target speakers",
        config=WeightingConfig,
        task="trainers.recipes.recognition.weighting:WeightingTask",
    ),
    "speaker-normalized": Recipe(
        summary="regression on statistics of the sound that are standardized by speaker, without "
        "gradient steps",
        config=SpeakerNormalizedConfig,
        task="trainers.recipes.recognition.speaker_normalized:SpeakerNormalizedTask",
    ),
}

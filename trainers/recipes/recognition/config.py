"""Options of `finetune`, `setpeer` and `weighting`; they need no torch.

`setpeer` is described in setpeer-emoceleb, section IV.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shards.config import ConfigError, option, require_positive, require_share
from trainers.recipes.recipe import Recipe, RecipeConfig, Run

P_HEADS = 4  # attention heads within SetPeER's P


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(RecipeConfig):
    """The vanilla baseline: encoder, mean pooling, head."""

    against_class_balance: ClassVar[str | None] = None

    head: Literal["linear", "two_layer", "interpreter"] = option(
        help="linear is one layer; two_layer has head_width numbers and ReLU between two; "
        "interpreter is PAPT's {128, 32} with batch norm",
        default="linear",
    )
    head_width: int = option(help="numbers between the layers of the head two_layer", default=256)
    head_dropout: float = option(help="dropout in the head", default=0.1)
    class_weights: Literal["none", "balanced"] = option(
        help="balanced weighs classes by their inverse frequency", default="none"
    )

    def __post_init__(self) -> None:
        require_share(self, "head_dropout")
        require_positive(self, "head_width")

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
}

"""Every option of `emostream train`, without torch: the help text and the driver need no more.

Groups: `encoder` (what hears or sees), `data` (what is loaded and predicted), `engine` (how it is optimised) and
`model` (the recipe's own). `--set engine.learning_rate=1e-4` sets one; `--print-config` shows all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shards.config import ConfigError, from_mapping, option
from shards.loading.batch_plan import SpeakerSetView, UtteranceView
from shards.loading.targets import TargetConfig
from shards.media.face_config import FaceBoxConfig

MAX_PSEUDO_LABELS = 2**16
P_HEADS = 4  # attention heads within SetPeER's P


def _require_share(config: Any, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{name}: got {getattr(config, name)}, expected a share below 1")


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name}: got {getattr(config, name)}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A pretrained encoder, or the sizes of a small one that is trained from nothing."""

    checkpoint: str | None = option(
        help="HuBERT, wav2vec 2.0, WavLM or data2vec audio, VideoMAE for video, hub name or folder, or what a run "
        "exported (RUN/best); default: the small encoder",
        default=None,
    )
    revision: str | None = option(help="full commit of a hub checkpoint", default=None)
    freeze_front_end: bool | None = option(
        help="do not train the convolutions of a pretrained encoder (of VideoMAE: the patch embedding); default: true, "
        "but false in tapt and papt, which go on with HuBERT's own pre-training",
        default=None,
    )
    freeze_layers: int = option(help="lowest transformer layers that are not trained", default=0)
    hidden_size: int = option(help="width of the small encoder", default=64)
    num_layers: int = option(help="transformer layers of the small encoder", default=3)
    num_heads: int = option(help="attention heads of the small encoder", default=4)
    intermediate_size: int = option(help="feed-forward width of the small encoder", default=256)
    dropout: float = option(help="dropout of the small encoder", default=0.1)
    num_frames: int = option(help="pictures of an utterance in the small video encoder", default=16)
    image_size: int = option(help="side of these pictures in pixels", default=64)
    patch_size: int = option(help="side of the squares they are cut into; two pictures deep", default=16)

    def __post_init__(self) -> None:
        _require_positive(self, "hidden_size", "num_layers", "num_heads", "intermediate_size")
        _require_share(self, "dropout")
        if self.freeze_layers < 0:
            raise ConfigError(f"freeze_layers: got {self.freeze_layers}, expected 0 or more")
        _require_positive(self, "num_frames", "image_size", "patch_size")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size: got {self.image_size}, expected a multiple of patch_size {self.patch_size}")
        if self.num_frames % 2:
            raise ConfigError(f"num_frames: got {self.num_frames}, expected an even number: patches are two deep")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size: got {self.hidden_size}, expected a multiple of {self.num_heads} heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is loaded, in which batches, and what is to be predicted."""

    modality: Literal["audio", "face", "video"] = option(
        help="sound, face.npy features, or pictures of the video", default="audio"
    )
    faces: FaceBoxConfig = option(
        help="how faces are cut from video; without a detector, whole pictures are seen", default_factory=FaceBoxConfig
    )
    target: TargetConfig = option(help="what is to be predicted", default_factory=TargetConfig)
    utterances: UtteranceView = option(help="batches of the vanilla recipe", default_factory=UtteranceView)
    sets: SpeakerSetView = option(help="batches of the personalised recipe", default_factory=SpeakerSetView)
    num_speakers: int | None = option(
        help="train on so many speakers only; a smaller number's are among a larger's", default=None
    )
    known_seconds: float = option(
        help="train on so many seconds of each speaker of known_split too, in place of as many training speakers: the "
        "speaker-dependent side of the personalisation gap; evaluate with the same --known-seconds",
        default=0.0,
    )
    known_split: str = option(help="whose speakers known_seconds is of", default="test")
    num_workers: int = option(help="processes that decode; 0: a thread beside the training", default=0)
    cache_mib: int = option(
        help="decoded training utterances kept in memory, in each process that decodes", default=1024
    )

    @property
    def cache_bytes(self) -> int:
        """What `cache_mib` says, in bytes."""
        return self.cache_mib * 2**20

    def __post_init__(self) -> None:
        if self.cache_mib < 0:
            raise ConfigError(f"cache_mib: got {self.cache_mib}, expected 0 or more")
        if self.num_workers < 0:
            raise ConfigError(f"num_workers: got {self.num_workers}, expected 0 or more")
        if self.known_seconds < 0:
            raise ConfigError(f"known_seconds: got {self.known_seconds}, expected 0 or more")
        if self.num_speakers is not None and self.num_speakers < 1:
            raise ConfigError(f"num_speakers: got {self.num_speakers}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Optimisation, precision, sharding, checkpoints. The defaults train the small encoder; the papers' are in docs."""

    num_steps: int = option(help="optimiser steps at most", default=800)
    batches_per_step: int = option(
        help="batches a step averages over, all workers together: more workers do the same in less time", default=1
    )
    learning_rate: float = option(help="peak", default=1e-3)
    weight_decay: float = option(help="AdamW's", default=1e-4)
    warmup_share: float = option(help="share of the steps in which the rate rises", default=0.05)
    schedule: Literal["cosine", "linear", "constant"] = option(help="what follows the rise", default="cosine")
    clip_norm: float = option(help="gradients are scaled to at most this norm", default=1.0)
    precision: Literal["float32", "bfloat16"] = option(help="of weights and activations", default="float32")
    zero_stage: int = option(help="DeepSpeed ZeRO: what is divided among the workers", default=0)
    validate_every: int = option(help="steps between validations", default=100)
    checkpoint_every: int = option(
        help="steps between checkpoints; one more is written whenever validation is better", default=200
    )
    keep_checkpoints: int = option(help="complete checkpoints kept", default=2)
    patience: int = option(help="stop after this many validations without improvement; 0: never", default=0)
    log_every: int = option(help="steps between lines in metrics.jsonl and TensorBoard", default=10)
    trackers: tuple[str, ...] = option(help="beside TensorBoard: mlflow, wandb", default=())
    seed: int = option(help="initial weights, order, dropout", default=0)

    def __post_init__(self) -> None:
        _require_positive(self, "num_steps", "batches_per_step", "learning_rate", "clip_norm", "log_every")
        _require_positive(self, "validate_every", "checkpoint_every", "keep_checkpoints")
        if not 0 <= self.zero_stage <= 3:
            raise ConfigError(f"zero_stage: got {self.zero_stage}, expected 0, 1, 2 or 3")
        _require_share(self, "warmup_share")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay: got {self.weight_decay}, expected 0 or more")
        unknown = sorted(set(self.trackers) - {"mlflow", "wandb"})
        if unknown:
            raise ConfigError(f"trackers: got {', '.join(unknown)}, expected mlflow or wandb")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """The vanilla baseline: encoder, mean pooling, head."""

    head: Literal["linear", "interpreter"] = option(
        help="linear, or PAPT's {128, 32} with batch norm", default="linear"
    )
    head_dropout: float = option(help="dropout in the head", default=0.1)
    class_weights: Literal["none", "balanced"] = option(help="weight classes by inverse frequency", default="none")

    def __post_init__(self) -> None:
        _require_share(self, "head_dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPeerConfig(FinetuneConfig):
    """SetPeER; the defaults are the paper's, but for the two options that keep a small codebook in use."""

    fusion: Literal["prefix", "addition", "cross_attention"] = option(help="how P's embeddings enter", default="prefix")
    num_prefixes: int = option(help="Q, embeddings of a speaker for each layer; addition has 1", default=4)
    code_width: int = option(help="C, width inside P", default=64)
    num_codes: int = option(help="M, entries of the codebook", default=512)
    quantized: bool = option(help="whether P has a codebook", default=True)
    normalise_codes: bool = option(help="layer norm before the codebook", default=False)
    restart_codes: bool = option(help="restart codes that stay unused", default=False)
    commitment: float = option(help="weight of the commitment term within L_VQ", default=0.25)
    classification_weight: float = option(help="lambda_1", default=1.0)
    contrastive_weight: float = option(help="lambda_2; 0 trains without L_NCE", default=0.1)
    vq_weight: float = option(help="lambda_3", default=0.1)
    temperature: float = option(help="tau of L_NCE", default=0.1)
    similarity: Literal["dot", "cosine"] = option(help="what L_NCE compares halves by; Eq. 7 has dot", default="dot")

    def __post_init__(self) -> None:
        FinetuneConfig.__post_init__(self)
        _require_positive(self, "num_prefixes", "code_width", "num_codes", "temperature")
        if self.code_width % P_HEADS:
            raise ConfigError(f"code_width: got {self.code_width}, expected a multiple of P's {P_HEADS} heads")
        if self.fusion == "addition" and self.num_prefixes != 1:
            raise ConfigError(f"num_prefixes: got {self.num_prefixes}, expected 1 for fusion addition")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightingConfig(FinetuneConfig):
    """More weight on training speakers who sound like the target speakers (Sridhar and Busso 2022)."""

    target_split: str = option(help="split of the target speakers; heard, its labels are not read", default="test")
    neighbours: int = option(help="nearest training speakers of each target speaker that weigh more", default=5)
    weight: float = option(help="weight of their utterances in the loss; all others weigh 1", default=2.0)
    functionals: Literal["cepstra", "compare"] = option(
        help="what speakers are compared by; compare is openSMILE's ComParE (extra: opensmile, research licence)",
        default="cepstra",
    )
    num_components: int = option(help="Gaussians of a speaker at most; one for every ten utterances", default=4)
    explained_variance: float = option(help="share of the functionals' variance that the PCA keeps", default=0.95)

    def __post_init__(self) -> None:
        FinetuneConfig.__post_init__(self)
        _require_positive(self, "neighbours", "num_components")
        if not self.weight > 1.0:
            raise ConfigError(f"weight: got {self.weight}, expected more than 1")
        if not 0.0 < self.explained_variance < 1.0:
            raise ConfigError(f"explained_variance: got {self.explained_variance}, expected a share between 0 and 1")
        if self.target_split == "train":
            raise ConfigError("target_split: got train, expected the split the model is for, such as test")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Task-adaptive pre-training: HuBERT's masked prediction, continued on the corpus at hand; no label is used."""

    splits: tuple[str, ...] = option(
        help="whose sound is used; papt-pldc, Table 2 adds validation and test", default=("train",)
    )
    held_out_share: float = option(help="share of each speaker's utterances that validates", default=0.05)
    label_layer: int | None = option(
        help="encoder layer (from 1) whose output is clustered into pseudo-labels; default: MFCCs", default=None
    )
    num_labels: int = option(help="pseudo-labels (k-means clusters)", default=500)
    cluster_frames: int = option(help="frames that k-means is fitted to", default=200_000)
    mask_probability: float = option(help="share of frames in spans, if spans did not overlap", default=0.8)
    mask_length: int = option(help="frames in a hidden span", default=10)
    min_spans: int = option(help="spans in an utterance at least", default=2)
    projection_size: int | None = option(
        help="width in which frames and pseudo-labels are compared; default: HuBERT's, 768 for an encoder 1024 or more "
        "wide (large), else 256 (base)",
        default=None,
    )
    temperature: float = option(help="of the cosine logits", default=0.1)
    features_penalty: float = option(help="weight of the mean square of the front end's output", default=10.0)
    min_samples: int = option(help="shorter utterances are left out (16 kHz)", default=32_000)
    max_samples: int = option(help="longer utterances are cropped at random", default=250_000)

    def __post_init__(self) -> None:
        _require_positive(self, "num_labels", "cluster_frames", "mask_length", "temperature")
        if self.projection_size is not None:
            _require_positive(self, "projection_size")
        _require_positive(self, "min_samples", "max_samples", "held_out_share", "mask_probability")
        if self.num_labels > MAX_PSEUDO_LABELS:
            raise ConfigError(f"num_labels: got {self.num_labels}, expected at most {MAX_PSEUDO_LABELS}")
        if self.held_out_share >= 1 or self.mask_probability > 1:
            raise ConfigError("held_out_share, mask_probability: expected shares, below 1 and at most 1")
        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaptConfig(PretrainConfig):
    """Personalised adaptive pre-training: the same with an embedding of every speaker."""

    fusion: Literal["last", "first", "prefix"] = option(help="where the speaker's embedding enters", default="last")


RecipeConfig = FinetuneConfig | PretrainConfig
RECIPES: Mapping[str, type[RecipeConfig]] = {
    "finetune": FinetuneConfig,
    "setpeer": SetPeerConfig,
    "weighting": WeightingConfig,
    "tapt": PretrainConfig,
    "papt": PaptConfig,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of `emostream train`."""

    recipe: str = option(help=f"What to train: {', '.join(RECIPES)}.", positional=True)
    shards: str = option(help="Packed shards with the splits train and validation: a glob, folder or file.")
    out: str = option(
        help="Folder for checkpoints, the best model and the metrics; for several nodes on shared storage."
    )
    resume: bool = option(default=False, help="Go on from the newest checkpoint in --out.")
    num_workers: int = option(default=1, help="Training processes; more than one run on Ray.")
    address: str | None = option(default=None, help="Ray cluster to train on; default: this machine.")
    encoder: EncoderConfig = option(default_factory=EncoderConfig, help="The encoder.")
    data: DataConfig = option(default_factory=DataConfig, help="The data.")
    engine: EngineConfig = option(default_factory=EngineConfig, help="The optimisation.")
    model: dict[str, Any] = option(default_factory=dict, help="The recipe's own options.")

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ConfigError(f"recipe: got {self.recipe!r}, expected one of {', '.join(RECIPES)}")
        if self.num_workers < 1:
            raise ConfigError(f"--num-workers: got {self.num_workers}, expected at least 1")
        options = self.recipe_config()
        if (
            isinstance(options, FinetuneConfig)
            and options.class_weights != "none"
            and self.data.target.kind == "values"
        ):
            raise ConfigError(
                f"model.class_weights: got {options.class_weights} for data.target.kind values, which has no classes; "
                "expected none"
            )
        if isinstance(options, PretrainConfig) and self.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {self.data.modality} for {self.recipe}, expected audio: masked prediction is of "
                "speech"
            )
        if isinstance(options, PretrainConfig) and (self.data.num_speakers is not None or self.data.known_seconds):
            raise ConfigError(
                f"data.num_speakers, data.known_seconds: got one of them for {self.recipe}, which uses no labels and "
                "hears all speakers of model.splits; leave them out"
            )
        if isinstance(options, WeightingConfig) and self.data.modality == "video":
            raise ConfigError("data.modality: got video for weighting, expected audio or face, that speakers differ by")
        if isinstance(options, PaptConfig) and self.encoder.checkpoint is None:
            raise ConfigError(
                "encoder.checkpoint: must be given for papt; it is the original encoder, which also finds the proxies "
                "of unseen speakers (`emostream train tapt` makes a small one from nothing)"
            )
        self.check_workers(self.num_workers)

    def check_workers(self, num_workers: int) -> None:
        """Raise ConfigError for what so many processes cannot do; torchrun tells their number only when it runs."""
        if self.engine.batches_per_step % num_workers:
            raise ConfigError(
                f"engine.batches_per_step: got {self.engine.batches_per_step} for {num_workers} workers, expected a "
                "multiple of them, so that every worker does the same"
            )

    @property
    def freezes_front_end(self) -> bool:
        """Whether the convolutions of a pretrained encoder stay as they are."""
        if self.encoder.checkpoint is None:
            return False
        if self.encoder.freeze_front_end is None:
            return not isinstance(self.recipe_config(), PretrainConfig)
        return self.encoder.freeze_front_end

    def expanded(self) -> dict[str, RecipeConfig]:
        """What `model` stands for, with the defaults."""
        return {"model": self.recipe_config()}

    def recipe_config(self) -> RecipeConfig:
        """The recipe's own options, checked."""
        return from_mapping(RECIPES[self.recipe], self.model, where="options.model")

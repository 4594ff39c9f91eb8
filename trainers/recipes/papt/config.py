"""Options of `tapt` and `papt` (papt-pldc, sections 3 and 4); they need no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from shards.config import ConfigError, option, require_positive, require_share
from shards.storage.documents import read_json
from trainers.recipes.papt.video_config import VideoPaptConfig, VideoPretrainConfig
from trainers.recipes.recipe import Recipe, RecipeConfig, Run

MAX_PSEUDO_LABELS = 2**16
UNFIT_FAMILIES = ("whisper", "wav2vec2-bert")  # without frames that masked prediction could hide


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(RecipeConfig):
    """Task-adaptive pre-training: HuBERT's masked prediction continues on the corpus at hand.

    It uses no labels.
    """

    against_class_balance: ClassVar[str | None] = "it uses no labels"
    uses_labels: ClassVar[bool] = False
    needs_speakers: ClassVar[bool] = False

    splits: tuple[str, ...] = option(
        help="splits whose sound is used; papt-pldc, Table 2 adds validation and test",
        default=("train",),
    )
    held_out_share: float = option(
        help="share of each speaker's utterances that is held out for validation; utterances "
        "without a speaker count as those of one speaker",
        default=0.05,
    )
    label_layer: int | None = option(
        help="encoder layer (from 1) whose output is clustered into pseudo-labels; default: MFCCs",
        default=None,
    )
    label_encoder: str | None = option(
        help="encoder whose layer label_layer is clustered: a folder or a hub name; default: the "
        "encoder that is trained. The labels of HuBERT large came from HuBERT base, layer 9",
        default=None,
    )
    label_revision: str | None = option(
        help="full commit of label_encoder on the hub; required for a hub name", default=None
    )
    label_centers: str | None = option(
        help="centers of k-means clusters of label_layer, [clusters, features]: a .npy file, or a "
        ".safetensors file of one tensor; default: k-means is fitted to this corpus",
        default=None,
    )
    prediction_head: str | None = option(
        help="HuBERT's own projection and label embeddings (final_proj, label_embs_concat), to go "
        "on with: a .safetensors file, or checkpoint, for those in the files of "
        "encoder.checkpoint; default: new ones. They mean clusters of label_centers",
        default=None,
    )
    num_labels: int = option(help="pseudo-labels (k-means clusters)", default=500)
    cluster_frames: int = option(help="frames that k-means is fitted to", default=200_000)
    mask_probability: float = option(
        help="share of frames that the hidden spans would cover if they did not overlap",
        default=0.8,
    )
    mask_length: int = option(help="frames in a hidden span", default=10)
    min_spans: int = option(help="least number of hidden spans in an utterance", default=2)
    projection_size: int | None = option(
        help="width in which frames and pseudo-labels are compared; default: HuBERT's, which is "
        "768 for an encoder 1024 or more wide (large), else 256 (base)",
        default=None,
    )
    temperature: float = option(help="temperature of the cosine logits", default=0.1)
    features_penalty: float = option(
        help="weight of the mean square of the front end's output", default=10.0
    )
    front_end_gradient: float | None = option(
        help="share of the gradient that reaches the convolutions; default: HuBERT's, which is 1 "
        "for an encoder 1024 or more wide (large), else 0.1 (base)",
        default=None,
    )
    encoder_dropout: float | None = option(
        help="dropout everywhere in the encoder, in this training only; default: that of its "
        "configuration. HuBERT large was pre-trained with 0, HuBERT base with 0.1",
        default=None,
    )
    min_samples: int = option(
        help="samples (16 kHz) an utterance needs; shorter ones are left out", default=32_000
    )
    max_samples: int = option(
        help="samples (16 kHz) to which longer utterances are cropped at random", default=250_000
    )

    def __post_init__(self) -> None:
        require_positive(
            self, "num_labels", "cluster_frames", "mask_length", "temperature", "projection_size"
        )
        require_positive(self, "min_samples", "max_samples", "held_out_share", "mask_probability")
        require_positive(self, "front_end_gradient")
        require_share(self, "encoder_dropout")

        if self.num_labels > MAX_PSEUDO_LABELS:
            raise ConfigError(
                f"num_labels: got {self.num_labels}, expected at most {MAX_PSEUDO_LABELS}"
            )
        if self.held_out_share >= 1 or self.mask_probability > 1:
            raise ConfigError(
                "held_out_share, mask_probability: expected shares, the first below 1 and the "
                "second at most 1"
            )

        if self.label_layer is None and (self.label_encoder or self.label_centers):
            raise ConfigError(
                "label_encoder, label_centers: got one of them without label_layer; give the layer "
                "whose output is clustered, such as label_layer=9"
            )
        if self.prediction_head is not None and self.label_centers is None:
            raise ConfigError(
                f"prediction_head: got {self.prediction_head} without label_centers; its label "
                "embeddings mean the clusters it was trained with, so give their centers too"
            )

        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")

    def check(self, run: Run) -> None:
        """Refuse inputs other than sound, and options that choose among training speakers."""
        if run.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, expected audio, "
                "because masked prediction is made for speech; for video, train tapt-video or "
                "papt-video"
            )

        _require_frames_to_hide(run)
        if self.prediction_head == "checkpoint" and run.encoder.checkpoint is None:
            raise ConfigError(
                "model.prediction_head: got checkpoint without encoder.checkpoint; give the "
                "encoder whose files hold the head"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaptConfig(PretrainConfig):
    """Personalized adaptive pre-training: `tapt` with an embedding for each speaker."""

    needs_speakers: ClassVar[bool] = True

    fusion: Literal["last", "first", "prefix"] = option(
        help="where the speaker's embedding enters the encoder", default="last"
    )

    def check(self, run: Run) -> None:
        """Refuse to start without an encoder, which finds the proxies of unseen speakers."""
        PretrainConfig.check(self, run)
        if run.encoder.checkpoint is None:
            raise ConfigError(
                "encoder.checkpoint: must be given for papt; it is the original encoder, which "
                "also finds the proxies of unseen speakers (`emostream train tapt` makes a small "
                "one from nothing)"
            )


def _require_frames_to_hide(run: Run) -> None:
    """Refuse a folder of a model that masked prediction does not fit, before sound is clustered."""
    path = Path(run.encoder.checkpoint or "") / "config.json"
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return  # a hub name, or a damaged folder, of which loading says what is wrong
    family = found.get("model_type") if isinstance(found, dict) else None
    if family in UNFIT_FAMILIES:
        raise ConfigError(
            f"encoder.checkpoint: got a {family} model for {run.recipe}, expected a model of raw "
            f"sound, such as HuBERT; {family} works with finetune, setpeer and weighting"
        )


RECIPES = {
    "tapt": Recipe(
        summary="adapts an encoder to the corpus' sound by masked prediction; afterwards, "
        "fine-tune from RUN/best",
        config=PretrainConfig,
        task="trainers.recipes.papt.task:PretrainingTask",
    ),
    "papt": Recipe(
        summary="tapt with an embedding for each speaker",
        config=PaptConfig,
        task="trainers.recipes.papt.personal_task:PaptTask",
    ),
    "tapt-video": Recipe(
        summary="adapts a video encoder to the corpus' pictures by masked reconstruction; "
        "afterwards, fine-tune from RUN/best",
        config=VideoPretrainConfig,
        task="trainers.recipes.papt.video_task:VideoPretrainingTask",
    ),
    "papt-video": Recipe(
        summary="tapt-video with an embedding for each speaker",
        config=VideoPaptConfig,
        task="trainers.recipes.papt.video_task:VideoPaptTask",
    ),
}

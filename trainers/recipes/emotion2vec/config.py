"""Options of `emotion2vec` (Ma et al. 2024, sections 3 and 4.2); they need no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shards.config import (
    ConfigError,
    option,
    require_at_least,
    require_positive,
    require_share,
)
from trainers.recipes.recipe import Recipe, RecipeConfig, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsConfig:
    """What the student is to predict of the teacher's feed-forward outputs.

    The paper's Eq. 3 averages the outputs of the top layers. What is normalized over time before,
    it does not say; the published code normalizes both targets, and data2vec 2.0 that of frames.
    """

    frame: Literal["instance_norm", "none"] = option(
        help="Target of a hidden frame. instance_norm: each layer's outputs have mean 0 and "
        "variance 1 over an utterance's frames before layers are averaged; none: as they are.",
        default="instance_norm",
    )
    utterance: Literal["none", "instance_norm"] = option(
        help="Target of an utterance, a mean over its frames. none: of the outputs as they are "
        "(Eq. 6); instance_norm: of normalized ones, as published. Their mean is 0, so that "
        "nothing is left to learn.",
        default="none",
    )
    top_layers: int | None = option(
        help="Number of the teacher's top layers that targets are averaged over. If it is not set, "
        "all layers but the prenet's: 8 of 12 for the published size.",
        default=None,
    )

    def __post_init__(self) -> None:
        require_positive(self, "top_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emotion2vecConfig(RecipeConfig):
    """Self-supervised pre-training: a student predicts what its slow copy, the teacher, hears.

    It uses no labels.
    """

    uses_labels: ClassVar[bool] = False
    needs_speakers: ClassVar[bool] = False

    splits: tuple[str, ...] = option(help="Splits whose sound is used.", default=("train",))
    held_out_share: float = option(
        help="Share of each speaker's utterances that is held out for validation. Utterances "
        "without a speaker count as those of one speaker.",
        default=0.05,
    )
    body: Literal["data2vec2", "data2vec"] = option(
        help="Body of an encoder that is trained from nothing. data2vec2: hidden frames leave the "
        "encoder, and convolutions predict them; data2vec: they stay as a mask embedding, and a "
        "linear layer predicts them.",
        default="data2vec2",
    )
    front_end: Literal["convolutions", "log_mel"] = option(
        help="Front end of an encoder that is trained from nothing. convolutions: over the "
        "waveform, 50 frames a second; log_mel: log energies, 25 frames a second, for small models "
        "on a CPU.",
        default="convolutions",
    )
    conv_size: int = option(
        help="Width of the front end `convolutions` of an encoder that is trained from nothing.",
        default=512,
    )
    prenet_layers: int | None = option(
        help="Number of the lowest layers that give no target, of an encoder that is trained from "
        "nothing. If it is not set, a third of encoder.num_layers.",
        default=None,
    )
    utterance: Literal["chunk", "token", "global"] = option(
        help="What predicts an utterance's target (Figure 2). chunk: the mean over num_tokens "
        "learned tokens; token: one token; global: the mean over frames, without tokens.",
        default="chunk",
    )
    num_tokens: int = option(help="Number of learned tokens of utterance=chunk.", default=10)
    global_over: Literal["predicted", "kept"] = option(
        help="Frames that utterance=global averages. predicted: the predictions of all frames, as "
        "in the paper; kept: the encoder's frames that were not hidden, as in the published code.",
        default="predicted",
    )
    terms: Literal["both", "frame", "utterance"] = option(
        help="Terms of the loss (Eq. 9).", default="both"
    )
    alpha: float = option(help="Weight of the utterance term (alpha in Eq. 9).", default=1.0)
    targets: TargetsConfig = option(
        help="What the student is to predict.", default_factory=TargetsConfig
    )
    clones: int = option(
        help="Number of times that each utterance is heard in a step, each time with other frames "
        "hidden. The teacher hears it once.",
        default=8,
    )
    mask_share: float = option(help="Share of an utterance's frames to hide.", default=0.5)
    mask_adjust: float = option(
        help="What is added to mask_share when spans are counted, because spans overlap.",
        default=0.05,
    )
    mask_length: int = option(help="Number of frames in a hidden span.", default=5)
    layer_drop: float = option(
        help="Probability that a layer is passed over in training.", default=0.05
    )
    ema_start: float = option(
        help="Share of itself that the teacher keeps at the first update (tau in Eq. 10).",
        default=0.999,
    )
    ema_end: float = option(
        help="Share of itself that the teacher keeps from update ema_steps on.", default=0.99999
    )
    ema_steps: int = option(
        help="Number of updates over which that share changes linearly.", default=20_000
    )
    guard_after: int = option(
        help="Number of updates after which a collapse ends the run: targets or predictions that "
        "hardly differ between frames.",
        default=5000,
    )
    min_target_spread: float = option(
        help="Least standard deviation of targets over frames, as a mean over channels.",
        default=0.1,
    )
    min_prediction_spread: float = option(
        help="Least standard deviation of predictions over frames, as a mean over channels.",
        default=0.01,
    )
    min_seconds: float = option(
        help="Seconds that an utterance needs; shorter ones are left out.", default=0.5
    )
    max_seconds: float = option(
        help="Seconds to which utterances are cropped at most. All utterances of a batch are "
        "cropped to the shortest, each at a random place.",
        default=20.0,
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_tokens", "clones", "mask_length", "ema_steps", "conv_size")
        require_positive(self, "min_seconds", "max_seconds", "held_out_share", "mask_share")
        require_at_least(self, 0, "alpha", "guard_after", "prenet_layers", "mask_adjust")
        require_share(self, "layer_drop")

        if max(self.held_out_share, self.mask_share) >= 1:
            raise ConfigError(
                f"held_out_share, mask_share: got {self.held_out_share} and {self.mask_share}, "
                "expected shares below 1"
            )
        if not 0 <= self.ema_start <= self.ema_end <= 1:
            raise ConfigError(
                f"ema_start, ema_end: got {self.ema_start} and {self.ema_end}, expected shares of "
                "which the second is not the smaller one"
            )
        if self.min_seconds > self.max_seconds:
            raise ConfigError(
                f"min_seconds: got {self.min_seconds}, expected at most max_seconds, "
                f"{self.max_seconds}"
            )
        if self.body == "data2vec" and self.front_end == "log_mel":
            raise ConfigError(
                "front_end: got log_mel with body data2vec, which is the published model; "
                "give body=data2vec2, or front_end=convolutions"
            )
        if not self.splits:
            raise ConfigError("splits: got none, expected at least one")

    @property
    def num_extra_tokens(self) -> int:
        """How many tokens the encoder gets in front of its frames."""
        return {"chunk": self.num_tokens, "token": 1, "global": 0}[self.utterance]

    @property
    def has_frame_term(self) -> bool:
        """Whether hidden frames are predicted."""
        return self.terms != "utterance"

    @property
    def has_utterance_term(self) -> bool:
        """Whether utterances are predicted."""
        return self.terms != "frame"

    def check(self, run: Run) -> None:
        """Refuse inputs other than sound, and options that choose among training speakers."""
        if run.data.modality != "audio":
            raise ConfigError(
                f"data.modality: got {run.data.modality} for {run.recipe}, expected audio, "
                "because the encoder hears sound"
            )
        if run.data.max_seconds is not None:
            raise ConfigError(
                f"data.max_seconds: got {run.data.max_seconds:g} for {run.recipe}, which crops "
                "every batch to its shortest utterance; give model.max_seconds"
            )


def decay_at(step: int, config: Emotion2vecConfig) -> float:
    """The share of itself that the teacher keeps after optimizer step number `step` (from 1).

    tau in Eq. 10, linear from `ema_start` to `ema_end`: .999000049 after the first update of the
    published setting, .999495 after 10,000 and .99999 from 20,000 on. It is a function of the step
    alone, so a resumed run goes on exactly.
    """
    left = max(0.0, 1 - step / config.ema_steps)
    return config.ema_end - (config.ema_end - config.ema_start) * left


RECIPES = {
    "emotion2vec": Recipe(
        summary="pre-trains an encoder on sound without labels or speakers, from nothing or from "
        "data2vec; afterwards, fine-tune from RUN/best",
        config=Emotion2vecConfig,
        task="trainers.recipes.emotion2vec.task:Emotion2vecTask",
    ),
}

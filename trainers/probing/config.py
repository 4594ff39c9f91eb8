"""Options of `emostream probe`, and how each head is trained. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from shards.config import ConfigError, option, require_positive
from shards.loading.targets import Stimulus, TargetConfig
from shards.storage.urls import require_local

HeadName = Literal["emotion2vec", "superb", "gru"]
InputName = Literal[
    "frames",
    "utterance",
    "both",
    "statistics",
    "tokens",
    "frames+tokens",
    "acoustics",
    "egemaps",
]
# Columns of prediction tables; egemaps is that of earlier releases.
COLUMNS = ("acoustics", "egemaps")
# Inputs of many frames an utterance; the others are one vector.
OVER_FRAMES = ("frames", "both", "frames+tokens")
# Inputs that need the encoder's extra tokens.
OF_TOKENS = ("tokens", "frames+tokens")
LayersName = Literal["last", "last4", "weighted"]
TruthName = Literal["emotion", "label", "ratings"]
HIDDEN_SIZE = 256
SPECTRAL = "spectral"
# The layers that `emostream features` must keep for each choice.
LAYERS_KEPT: Mapping[LayersName, str] = {"last": "last", "last4": "last4", "weighted": "all"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a head is trained: for a number of epochs, or for a number of steps.

    With `num_epochs` the model is validated after each epoch, with `num_steps` after every
    `validate_every` steps. `peak_rate` is the upper end of a cyclic learning rate, which takes one
    step an epoch, `cycle_epochs` up and as many down; None: the rate stays.
    """

    optimizer: Literal["rmsprop", "adam"]
    learning_rate: float
    batch_size: int
    num_epochs: int | None = None
    num_steps: int | None = None
    validate_every: int | None = None
    peak_rate: float | None = None
    cycle_epochs: int = 10
    clip: float | None = None


# emotion2vec, section 4 and its published code (`emotion2vec`); SUPERB's task of emotion
# recognition (`superb`). How the GRUs were trained is not published: Adam, a number of epochs.
TRAININGS: Mapping[HeadName, Training] = {
    "emotion2vec": Training(
        optimizer="rmsprop", learning_rate=5e-4, peak_rate=1e-3, batch_size=128, num_epochs=100
    ),
    "superb": Training(
        optimizer="adam",
        learning_rate=1e-4,
        batch_size=32,
        num_steps=30_000,
        validate_every=500,
        clip=1.0,
    ),
    "gru": Training(optimizer="adam", learning_rate=1e-3, batch_size=128, num_epochs=100, clip=1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """Options of `emostream probe`."""

    shards: str = option(help="Labeled shards: a glob, a folder or a file.")
    out: str = option(
        help="Folder for probe.json, predictions.parquet, rejected.parquet and probe.html."
    )
    encoder: str | None = option(
        default=None,
        help="Frozen encoder to probe: a speech encoder by hub name or folder, what `train` "
        "exported (RUN/best), or `spectral`. Its features are made first, in OUT/features.",
    )
    features: str | None = option(
        default=None,
        help="Folder that `emostream features` wrote, in place of --encoder.",
    )
    predictions: str | None = option(
        default=None,
        help="Folder that `emostream label` wrote, in place of --encoder: its `acoustics` are "
        "probed.",
    )
    revision: str | None = option(default=None, help="Full commit of a hub encoder.")
    input: InputName | None = option(
        default=None,
        help="What the head sees of an utterance. frames: all frames; utterance: their mean; both: "
        "each frame with the mean beside it; statistics: mean and spread of each number over "
        "time; tokens: the mean of the encoder's extra tokens; frames+tokens: each frame with that "
        "mean beside it; acoustics, egemaps: a column of --predictions. Without it: frames "
        "(utterance with --history), or statistics of `spectral`.",
    )
    layers: LayersName = option(
        default="last",
        help="Layers of the encoder that the head sees. last: its output; last4: the mean of its "
        "last four layers; weighted: a mean of all layers whose weights are learned, as in SUPERB.",
    )
    head: HeadName = option(
        default="emotion2vec",
        help="The model that is trained. emotion2vec: Linear, ReLU, mean over time, Linear; "
        "superb: Linear, mean over time, Linear; gru: two layers of recurrent units, with "
        "--history one within turns and one over turns.",
    )
    history: int | None = option(
        default=None,
        help="Predict the emotion of a turn from so many turns before it (6 in emotion2vec), not "
        "from the turn itself. Needs --head gru, and `dialogue` and `turn` in the json.",
    )
    folds: str = option(
        default="split",
        help="Division into training, validation and test. split: that of the json; speaker: each "
        "speaker is tested once, another validates; speaker:5: five folds of whole speakers; "
        "session: each session is tested once, a random 20 % of the others validates; random:10: "
        "ten folds of utterances, which share speakers (80 %, 10 %, 10 %); given:FIELD: each value "
        "of a field of the json is a fold; given:FILE: a CSV or Parquet table with the columns "
        "`key` and `fold`.",
    )
    select_on: Literal["validation", "test"] = option(
        default="validation",
        help="Utterances on which the best epoch is chosen. test: the tested ones, as some papers "
        "do; such figures are too good, and everything that shows them says so.",
    )
    truth: TruthName | None = option(
        default=None,
        help="Field of the json to predict. Without it: `emotion` if any utterance has one, or "
        "else `label`. ratings: the votes of people; the shares of the votes are learned, and "
        "figures of several labels are given too.",
    )
    stimulus: Stimulus = option(
        default="audiovisual",
        help="For --truth ratings, what the raters had. voice: the sound alone; face: the picture "
        "alone; audiovisual: both.",
    )
    classes: tuple[str, ...] = option(
        default=(), help="Classes to predict, such as anger,neutral. Without them, all that occur."
    )
    merge: dict[str, str] = option(
        default_factory=dict, help="Labels that count as another class: excitement=happiness."
    )
    unknown: Literal["error", "drop"] = option(
        default="error",
        help="What to do when a label is none of --classes. error: stop and name these labels; "
        "drop: leave such utterances out, and say how many they are.",
    )
    num_utterances: int | None = option(
        default=None,
        help="Number of training utterances, for low-resource figures. Each class keeps its share; "
        "a larger number has those of a smaller one too. Without it, all are used.",
    )
    subset_seed: tuple[int, ...] = option(
        default=(0,),
        help="Seeds that choose the --num-utterances; with several, the figures are means.",
    )
    learning_rate: float | None = option(
        default=None, help="Learning rate, in place of the head's own."
    )
    batch_size: int | None = option(
        default=None, help="Utterances in a step, in place of the head's own number."
    )
    num_epochs: int | None = option(
        default=None, help="Epochs of the heads emotion2vec and gru, in place of 100."
    )
    num_steps: int | None = option(
        default=None, help="Steps of the head superb, in place of 30,000."
    )
    seed: int = option(default=0, help="Seed of the weights, the order of utterances and the map.")
    name: str | None = option(
        default=None, help="Name of this probe in tables. Without it, what it is made of."
    )
    beside: tuple[str, ...] = option(
        default=(),
        help="Folders of finished probes to show on the page beside this one; the difference of "
        "figures has an interval where both tested the same utterances.",
    )
    map: Literal["tsne", "umap"] = option(
        default="tsne",
        help="How the page places utterances on a plane; umap needs `pip install emostream[umap]`.",
    )
    address: str | None = option(
        default=None, help="Ray cluster that makes the features; without it, a local Ray."
    )

    def __post_init__(self) -> None:
        given = [self.encoder, self.features, self.predictions]
        if sum(value is not None for value in given) != 1:
            raise ConfigError(
                "give exactly one of --encoder (to make features), --features (made before) and "
                "--predictions (the column acoustics)"
            )
        is_column = self.input in COLUMNS
        if is_column != (self.predictions is not None) and self.input is not None:
            raise ConfigError(
                f"--input {self.input}: {' and '.join(COLUMNS)} are the columns of --predictions "
                "that are probed; give both options or neither"
            )

        require_local(self, "--out")
        require_positive(
            self,
            "--history",
            "--num-utterances",
            "--learning-rate",
            "--batch-size",
            "--num-epochs",
            "--num-steps",
        )
        if not self.subset_seed or len(set(self.subset_seed)) < len(self.subset_seed):
            raise ConfigError(
                f"--subset-seed: got {self.subset_seed}, expected at least one, each once"
            )
        if self.num_utterances is None and len(self.subset_seed) > 1:
            raise ConfigError(
                "--subset-seed: several seeds choose nothing without --num-utterances; give both"
            )
        self._require_unit_of_length()
        self._require_conversation()
        if self.view in OF_TOKENS and self.layers != "last":
            raise ConfigError(
                f"--input {self.view}: got --layers {self.layers}, but extra tokens are kept of "
                "the last layer only; leave --layers out"
            )
        self.target(self.truth or "label")

    @property
    def view(self) -> InputName:
        """What the head sees of an utterance."""
        if self.input is not None:
            return self.input
        if self.predictions is not None:
            return "acoustics"
        if self.encoder == SPECTRAL:
            return "statistics"
        return "frames" if self.history is None else "utterance"

    @property
    def training(self) -> Training:
        """How the head is trained."""
        own = TRAININGS[self.head]
        rate = self.learning_rate or own.learning_rate
        # A cycle keeps its ratio of peak and base.
        peak = None if own.peak_rate is None else own.peak_rate / own.learning_rate * rate
        return replace(
            own,
            learning_rate=rate,
            peak_rate=peak,
            batch_size=self.batch_size or own.batch_size,
            num_epochs=self.num_epochs or own.num_epochs,
            num_steps=self.num_steps or own.num_steps,
        )

    def target(self, kind: TruthName) -> TargetConfig:
        """Which classes are predicted, from the field `kind` of the json."""
        return TargetConfig(
            kind=kind,
            classes=self.classes,
            merge=dict(self.merge),
            unknown=self.unknown,
            stimulus=self.stimulus,
        )

    def _require_unit_of_length(self) -> None:
        own = TRAININGS[self.head]
        for name, given, mine in (
            ("--num-epochs", self.num_epochs, own.num_epochs),
            ("--num-steps", self.num_steps, own.num_steps),
        ):
            if given is not None and mine is None:
                other = "--num-steps" if name == "--num-epochs" else "--num-epochs"
                raise ConfigError(
                    f"{name}: the head {self.head} is trained by the other measure; give {other}"
                )

    def _require_conversation(self) -> None:
        """Refuse heads and inputs that no conversation has."""
        if self.history is None:
            return
        if self.head != "gru":
            raise ConfigError(
                f"--history {self.history}: got --head {self.head}, which knows no order of turns; "
                "give --head gru"
            )
        if self.view in OVER_FRAMES:
            raise ConfigError(
                f"--input {self.view}: with --history each utterance is one vector; give --input "
                "utterance or statistics"
            )

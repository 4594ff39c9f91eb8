"""Encoders of the pre-training benchmark, and their runs, which are commands of `emostream`.

An encoder is trained once for a world and seed and kept; `emostream features` makes its frozen
frames, and the code of `emostream probe` trains and tests a head on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from shards.config_values import from_mapping
from tests.benchmarks.training.personalization_runs import command
from tests.benchmarks.training.pretraining_corpora import (
    DIALOGUES,
    LIBRISPEECH,
    PERMUTED,
    RAVDESS,
    WITH_ACTORS,
    Sizes,
)
from trainers.config import TrainConfig
from trainers.probing.config import SPECTRAL, InputName, ProbeConfig
from trainers.probing.probing import Probed, probe

RANDOM, STATISTICS = "random encoder", "spectral statistics"
NEUTRAL, COLD, CONTINUED = "neutral start", "cold, both", "continued, both"
# Encoders that conversations are measured on: two baselines, and one that both terms pre-trained.
IN_DIALOGUES = (RANDOM, STATISTICS, COLD)
HISTORY = 6  # turns before, as in emotion2vec


@dataclass(frozen=True, slots=True)
class Encoder:
    """How an encoder comes to be: options of the recipe, its pool, and what it starts from.

    `kind` is trained, random (the cold start before its first step) or spectral (no weights).
    """

    kind: Literal["trained", "random", "spectral"] = "trained"
    model: Mapping[str, Any] = field(default_factory=dict)
    pool: str = "pool"
    start: str | None = None


# The neutral start is data2vec's: frames alone, on speech without emotions (emotion2vec, section
# 4.2). What is continued from it sees the same pool as the cold start.
METHODS: Mapping[str, Encoder] = {
    RANDOM: Encoder("random"),
    STATISTICS: Encoder("spectral"),
    NEUTRAL: Encoder(model={"terms": "frame"}, pool="calm"),
    COLD: Encoder(),
    CONTINUED: Encoder(start=NEUTRAL),
    "cold, frame only": Encoder(model={"terms": "frame"}),
    "cold, utterance only": Encoder(model={"terms": "utterance"}),
    "cold, token": Encoder(model={"utterance": "token"}),
    "cold, global": Encoder(model={"utterance": "global"}),
    "cold, alpha 0": Encoder(model={"alpha": 0.0}),
    "cold, alpha .1": Encoder(model={"alpha": 0.1}),
    "cold, alpha 10": Encoder(model={"alpha": 10.0}),
    "cold, published target": Encoder(model={"targets": {"utterance": "instance_norm"}}),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that is measured of an encoder: on which labels, in which folds, of which input."""

    name: str
    corpus: str
    folds: str = "split"
    num_labels: int | None = None
    view: InputName = "frames"
    history: int | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """The place where runs are kept, and all sizes."""

    folder: Path
    sizes: Sizes

    def encoder(self, world: str, name: str, seed: int) -> str:
        """The folder of an encoder, made unless it is there, or the name of the one without any."""
        encoder = METHODS[name]
        if encoder.kind == "spectral":
            return SPECTRAL

        out = self.folder / "runs" / world / f"{_plain(name)}-{seed}"
        best = out / "train" / "best"
        if encoder.kind == "random" and not (best / "config.json").exists():
            self._export_untrained(self._values(world, encoder, seed, out), best)
        if encoder.kind == "trained" and not (out / "train" / "train.json").exists():
            self._train(self._values(world, encoder, seed, out), out)
        return str(best)

    def features(self, world: str, name: str, seed: int, corpus: str) -> Path:
        """The frozen frames and tokens of `corpus`; files that are there are not made again."""
        out = self.folder / "features" / world / corpus / f"{_plain(name)}-{seed}"
        encoder = ["--encoder", self.encoder(world, name, seed), "--num-workers", "1"]
        tokens = ["--tokens"] if has_tokens(name) else []
        command("features", "--shards", self.shards(corpus), *encoder, *tokens, "--out", str(out))
        return out

    def probe(self, features: Path, setting: Setting, *, is_spectral: bool, seed: int) -> Probed:
        """Train and test heads on frozen frames; the epoch is chosen on validation utterances."""
        chosen = range(self.sizes.resamplings if setting.num_labels else 1)
        return probe(
            ProbeConfig(
                shards=self.shards(setting.corpus),
                out=str(features / "probe"),
                features=str(features),
                # Statistics are what spectral frames are pooled to, whatever is asked for.
                input="statistics" if is_spectral else setting.view,
                head="emotion2vec" if setting.history is None else "gru",
                history=setting.history,
                folds=setting.folds,
                num_utterances=setting.num_labels,
                subset_seed=tuple(chosen),
                num_epochs=self.sizes.probe_epochs,
                seed=seed,
            )
        )

    def shards(self, corpus: str) -> str:
        """The pattern of a corpus' shards."""
        return f"{self.folder}/corpora/{corpus}/*.tar"

    def _train(self, values: Mapping[str, Any], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        resume = {"resume": (out / "train" / "checkpoints").exists()}
        (out / "options.yaml").write_text(yaml.safe_dump(dict(values) | resume))
        command("train", "--config", str(out / "options.yaml"))

    def _export_untrained(self, values: Mapping[str, Any], folder: Path) -> None:
        """Write the encoder as it is before its first step, by the recipe's own code."""
        from trainers.training import make_task, read_corpus

        config = from_mapping(TrainConfig, dict(values))
        task = make_task(config, read_corpus(config))
        task.export(task.build_model(), folder)  # type: ignore[union-attr]

    def _values(self, world: str, encoder: Encoder, seed: int, out: Path) -> dict[str, Any]:
        """The options of `emostream train`."""
        sizes = self.sizes
        shape: dict[str, Any] = {
            "hidden_size": sizes.width,
            "intermediate_size": 4 * sizes.width,
            "num_layers": sizes.layers,
        }
        if encoder.start is not None:
            shape = {"checkpoint": self.encoder(world, encoder.start, seed)}

        model = {
            "front_end": "log_mel",
            "prenet_layers": sizes.prenet_layers,
            "clones": sizes.clones,
        }
        # Only the number of utterances limits a batch.
        batches = {"batch_seconds": 1e6, "max_utterances": sizes.utterances}
        # Validated at the end only: the loss has moving targets, so a lower one is no better start.
        return {
            "recipe": "emotion2vec",
            "shards": self.shards(pool_of(world, encoder)),
            "out": str(out / "train"),
            "encoder": shape,
            "model": model | dict(encoder.model),
            "data": {"utterances": batches},
            "engine": {
                "num_steps": sizes.steps,
                "seed": seed,
                "validate_every": sizes.steps,
                "checkpoint_every": sizes.steps,
            },
        }


def pool_of(world: str, encoder: Encoder) -> str:
    """The corpus that an encoder is pre-trained on."""
    if world == RAVDESS:
        return LIBRISPEECH if encoder.pool == "calm" else WITH_ACTORS
    return f"{encoder.pool}-{world.rpartition('-')[2]}"


def has_tokens(name: str) -> bool:
    """Whether an encoder has extra tokens."""
    encoder = METHODS[name]
    return encoder.kind != "spectral" and encoder.model.get("utterance") != "global"


def settings_of(kind: str, corpus: str, sizes: Sizes) -> Sequence[Setting]:
    """What is measured in a cell of that kind."""
    if kind == RAVDESS:
        return [
            Setting(f"{prefix}{folds}", name, folds)
            for prefix, name in (("", RAVDESS), ("permuted, ", PERMUTED))
            for folds in ("speaker:8", "random:10")
        ]

    if kind in DIALOGUES:
        views: Sequence[InputName] = ("utterance", "tokens")
        return [
            Setting(f"next emotion, {view}", corpus, view=view, history=HISTORY) for view in views
        ]

    few = [Setting(str(number), corpus, num_labels=number) for number in sizes.labels]
    pooled = Setting("all, mean of frames", corpus, view="utterance")
    tokens = [
        Setting("all, tokens", corpus, view="tokens"),
        Setting("all, frames and tokens", corpus, view="frames+tokens"),
    ]
    return [*few, Setting("all", corpus), pooled, *tokens]


def _plain(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")

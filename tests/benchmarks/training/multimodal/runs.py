"""Runs of the multimodal benchmark, which are commands of `emostream`, and what they answer.

An encoder is adapted once for a corpus, fold and seed, and kept. Stage 2 either trains a head on
its frozen frames (`probe`) or trains it on with a head of two layers (`finetune`).

Every fine-tuning takes as many steps, whatever the number of labels: twenty epochs of 100 labels
would be 60 steps, in which an encoder that has learned nothing before cannot learn anything. The
convolutions are trained too, for those of an encoder before training are random.

Shapes: N utterances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from shards.config_values import from_mapping
from shards.grouping import group_rows
from tests.benchmarks.training.multimodal.features import make_features
from tests.benchmarks.training.multimodal.methods import METHODS, Method
from tests.benchmarks.training.personalization_runs import command
from trainers.config import TrainConfig
from trainers.probing.config import SPECTRAL, InputName, ProbeConfig
from trainers.probing.loop import fit
from trainers.probing.material import prepare
from trainers.probing.probing import probe

RAVDESS_FOLDS = 6
_COLUMNS = ("truth", "predicted", "speaker")
INPUTS: Mapping[str, InputName] = {"spectral": "statistics", "vectors": "acoustics"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Everything that is large or small: speakers, the encoder, and how long things are trained.

    `labels` are numbers of labeled training utterances; all of them are always used too.
    """

    pool: int
    train: int
    validation: int
    test: int
    width: int
    layers: int
    steps: int
    tune_steps: int
    utterances: int
    labels: Sequence[int]
    resamplings: int
    probe_epochs: int


@dataclass(frozen=True, slots=True)
class Answers:
    """The truth of each tested utterance [N], what was recognized [N], and whose it is [N]."""

    truth: NDArray[Any]
    predicted: NDArray[Any]
    speaker: NDArray[Any]

    @property
    def accuracy(self) -> float:
        """The share that was recognized, in percent."""
        return 100 * float(np.mean(self.truth == self.predicted))

    @property
    def macro_f1(self) -> float:
        """The mean over classes of F1, in percent."""
        return 100 * float(f1_score(self.truth, self.predicted, average="macro"))

    def per_speaker(self) -> dict[str, float]:
        """The accuracy of each speaker, in percent."""
        is_right, rows = self.truth == self.predicted, group_rows(self.speaker)
        return {name: 100 * float(np.mean(is_right[mine])) for name, mine in rows.items()}

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """The answers of several folds."""
        return cls(*(np.concatenate([getattr(one, name) for one in parts]) for name in _COLUMNS))


@dataclass(frozen=True, slots=True)
class Bench:
    """The place where runs are kept, all sizes, and the data of the measurements without runs.

    `goemotions` is the folder of that corpus, `sentiment` a classifier to try on it beside ours.
    """

    folder: Path
    sizes: Sizes
    goemotions: Path
    sentiment: str | None

    def place(self, corpus: str) -> Path:
        """The folder of a corpus."""
        return self.folder / "corpora" / corpus

    def labeled(self, corpus: str) -> str:
        """The labeled shards of a corpus; where none are apart, folds divide the pool."""
        apart = self.place(corpus) / "labeled"
        return f"{apart if apart.exists() else self.place(corpus) / 'pool'}/*.tar"

    def probe(self, corpus: str, name: str, seed: int, num_labels: int | None) -> Answers:
        """Test heads on what a method makes of a world's labeled speakers."""
        resamplings = range(self.sizes.resamplings if num_labels else 1)
        config = self._probe_config(
            corpus, name, seed, None, num_utterances=num_labels, subset_seed=tuple(resamplings)
        )
        answers = probe(config).answers
        return Answers(answers.truth, answers.predicted, answers.speaker)

    def probe_fold(self, corpus: str, name: str, seed: int, fold: int) -> Answers:
        """Test a head on one fold of speakers, of whom the encoder has heard nothing."""
        config = self._probe_config(corpus, name, seed, fold, folds=f"speaker:{RAVDESS_FOLDS}")
        material = prepare(config)
        division = material.divisions[fold]
        fitted = fit(
            material.inputs,
            material.labels,
            len(material.names),
            division,
            config.head,
            config.training,
            seed=seed,
        )
        rows = division.test
        predicted = fitted.probs_NC.argmax(axis=1)
        return Answers(
            material.labels[rows], predicted, material.index.speaker_of_rows.astype(str)[rows]
        )

    def finetune(
        self, corpus: str, name: str, seed: int, *, num_labels: int | None, fold: int | None
    ) -> Answers:
        """Fine-tune what a method made, and test it on speakers whom it has not heard."""
        setting = "all" if num_labels is None else str(num_labels)
        out = self._out(corpus, name, seed, fold) / f"tuned-{setting}"

        data: dict[str, Any] = {"num_utterances": num_labels, "subset_seed": seed}
        values = self._values(corpus, out, seed, fold, data, self.sizes.tune_steps)
        values |= {
            "recipe": "finetune",
            "shards": self.labeled(corpus),
            "encoder": {
                "checkpoint": str(self.adapt(corpus, name, seed, fold)),
                "freeze_front_end": False,
            },
            "model": {"head": "two_layer"},
        }
        values["data"]["target"] = {"kind": "emotion"}
        _train(values, out)

        if not (out / "test" / "metrics.json").exists():
            model = ["--checkpoint", f"{out}/train/best", "--shards", values["shards"]]
            command("evaluate", *model, "--out", f"{out}/test")
        table = pq.read_table(out / "test" / "predictions.parquet")
        return Answers(*(np.asarray(table[name].to_pylist()) for name in _COLUMNS))

    def adapt(self, corpus: str, name: str, seed: int, fold: int | None) -> Path:
        """The folder of the encoder that a method makes, made unless it is there.

        With a fold, stage 1 hears this fold's training speakers alone.
        """
        method = METHODS[name]
        if method.pool is not None:  # one encoder for all folds
            fold = None
        out = self._out(corpus, name, seed, fold) / "adapted"
        best = out / "train" / "best"
        values = self._adaptation(corpus, method, seed, fold, out)

        if method.kind == "random" and not (best / "config.json").exists():
            _export_untrained(values, best)
        if method.kind == "adapted":
            _train(values, out)
        return best

    def _probe_config(
        self, corpus: str, name: str, seed: int, fold: int | None, **options: Any
    ) -> ProbeConfig:
        method, place = METHODS[name], self.place(corpus)
        shards = self.labeled(corpus)
        out = self._out(corpus, name, seed, fold)

        source: dict[str, Any]
        if method.kind == "vectors":
            made = place / ("labeled-targets" if fold is None else "targets")
            source = {"predictions": str(made)}
        else:
            encoder = SPECTRAL
            if method.has_encoder:
                encoder = str(self.adapt(corpus, name, seed, fold))
            if method.pool is not None or method.kind == "spectral":
                out = self._out(corpus, name, seed, None)  # the same features in every fold
            source = {"features": str(out / "features")}
            make_features(shards, encoder, out / "features")

        return ProbeConfig(
            shards=shards,
            out=str(out / "probe"),
            input=INPUTS.get(method.kind, "frames"),
            num_epochs=self.sizes.probe_epochs,
            seed=seed,
            truth="emotion",
            **source,
            **options,
        )

    def _adaptation(
        self, corpus: str, method: Method, seed: int, fold: int | None, out: Path
    ) -> dict[str, Any]:
        place = self.place(corpus if method.pool is None else method.pool)
        names = ("acoustics_weight", "sentiment_weight", "face_weight")
        weights = dict(zip(names, method.weights, strict=True))
        return self._values(corpus, out, seed, fold, {}, self.sizes.steps) | {
            "recipe": "multimodal",
            "shards": str(place / "pool" / "*.tar"),
            "targets": str(place / method.targets),
            "encoder": {"hidden_size": self.sizes.width, "num_layers": self.sizes.layers},
            "model": weights | dict(method.model),
        }

    def _values(
        self,
        corpus: str,
        out: Path,
        seed: int,
        fold: int | None,
        data: Mapping[str, Any],
        steps: int,
    ) -> dict[str, Any]:
        """The options that both stages share."""
        batches = {"batch_seconds": 60.0, "max_utterances": self.sizes.utterances}
        folds = {} if fold is None else {"folds": f"speaker:{RAVDESS_FOLDS}", "fold": fold}
        return {
            "out": str(out / "train"),
            "data": {"utterances": batches, **folds, **data},
            "engine": {
                "num_steps": steps,
                "validate_every": max(1, steps // 10),
                "checkpoint_every": steps,
                "seed": seed,
            },
        }

    def _out(self, corpus: str, name: str, seed: int, fold: int | None) -> Path:
        part = "" if fold is None else f"-fold-{fold}"
        return self.folder / "runs" / corpus / f"{plain(name)}-{seed}{part}"


def plain(name: str) -> str:
    """The name of a method as part of a file's name."""
    return name.replace(" ", "-").replace(",", "").replace("'", "").replace("*", "x")


def _train(values: Mapping[str, Any], out: Path) -> None:
    if (out / "train" / "train.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    resume = {"resume": (out / "train" / "checkpoints").exists()}
    (out / "options.yaml").write_text(yaml.safe_dump(dict(values) | resume))
    command("train", "--config", str(out / "options.yaml"))


def _export_untrained(values: Mapping[str, Any], folder: Path) -> None:
    """Write the encoder as it is before its first step, by the recipe's own code."""
    from trainers.training import make_task, read_corpus

    config = from_mapping(TrainConfig, dict(values))
    task = make_task(config, read_corpus(config))
    task.export(task.build_model(), folder)  # type: ignore[union-attr]

"""Models of the two-stage benchmark, and their runs, which are commands of `emostream`.

Models are called as in Table 1 (two-stage-aver). A model of stage 1 is trained once for a corpus
and seed, and kept for all that join it. The rows beside the twelve are what the paper lacks: the
same number of streams without unimodal labels, unimodal labels of other utterances, and branches
that are averaged, without stage 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from shards.storage.documents import read_json
from tests.benchmarks.training.personalization_runs import command
from tests.benchmarks.training.two_stage_corpora import RAVDESS, Sizes
from trainers.recipes.two_stage.config import TwoStageOptions

Kind = Literal["stage-1", "one-step", "stage-2"]
Inputs = Literal["audio", "face", "both"]
_OTHER_SEED = 1000  # far from any seed that is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A row of Table 1: its inputs, who was asked for its labels, options, and its branches.

    `kind` is stage-1, one-step (branches trained together), or stage-2. `is_again` is a second
    training, from other random weights, of a model that is there.
    """

    kind: Kind
    inputs: Inputs
    elicited: str
    options: Mapping[str, Any] = field(default_factory=dict)
    branches: tuple[str, ...] = ()
    is_again: bool = False


def _stage_1(inputs: Inputs, labels: str, elicited: str, **options: Any) -> Model:
    return Model(
        kind="stage-1",
        inputs=inputs,
        elicited=elicited,
        options={"inputs": inputs, "labels": labels, **options},
    )


def _one_step(labels: str, elicited: str, **options: Any) -> Model:
    return Model(
        kind="one-step",
        inputs="both",
        elicited=elicited,
        options={"inputs": "both", "labels": labels, **options},
    )


def _stage_2(elicited: str, *branches: str, **options: Any) -> Model:
    return Model(
        kind="stage-2", inputs="both", elicited=elicited, options=options, branches=branches
    )


TABLE_1: Mapping[str, Model] = {
    "1": _stage_1("audio", "voice", "Voice"),
    "2": _stage_1("audio", "face", "Face"),
    "3": _stage_1("audio", "audiovisual", "AV"),
    "4": _stage_1("face", "voice", "Voice"),
    "5": _stage_1("face", "face", "Face"),
    "6": _stage_1("face", "audiovisual", "AV"),
    "7": _one_step("voice", "Voice"),
    "8": _one_step("face", "Face"),
    "9": _one_step("audiovisual", "AV"),
    "10": _stage_2("AV", "3", "6"),
    "11": _stage_2("Mixed", "1", "5"),
    "12": _stage_2("Proposed", "1", "3", "5", "6"),
}
CONTROLS: Mapping[str, Model] = {
    "10, four streams": _stage_2("AV", "3", "6", "3, again", "6, again"),
    "12, permuted": _stage_2("Permuted", "1, permuted", "3", "5, permuted", "6"),
    "12, average": _stage_2("Proposed", "1", "3", "5", "6", join="average"),
}
# Branches that only controls need.
EXTRA_BRANCHES: Mapping[str, Model] = {
    "3, again": Model(
        kind="stage-1",
        inputs="audio",
        elicited="AV",
        options=TABLE_1["3"].options,
        is_again=True,
    ),
    "6, again": Model(
        kind="stage-1", inputs="face", elicited="AV", options=TABLE_1["6"].options, is_again=True
    ),
    "1, permuted": _stage_1("audio", "voice", "Permuted", permuted_labels=True),
    "5, permuted": _stage_1("face", "face", "Permuted", permuted_labels=True),
}
# Table 2: the architectures that the recipe knows besides its own.
BASELINES: Mapping[str, Model] = {
    name: _one_step("audiovisual", "AV", architecture=name)
    for name in get_args(get_type_hints(TwoStageOptions)["architecture"])
    if name != "branches"
}
MODELS: Mapping[str, Model] = {**TABLE_1, **EXTRA_BRANCHES, **BASELINES, **CONTROLS}


@dataclass(frozen=True, slots=True)
class Bench:
    """The place where runs are kept, and all sizes."""

    folder: Path
    sizes: Sizes

    def train(self, corpus: str, name: str, seed: int) -> Path:
        """Train a model unless it is there, with the branches that it needs; return its folder."""
        out, model = self._run(corpus, name, seed), MODELS[name]
        done = out / "finished"
        if done.exists():
            return out

        for branch in model.branches:
            self.train(corpus, branch, seed)
        out.mkdir(parents=True, exist_ok=True)
        values = self._values(corpus, name, seed)
        values["resume"] = any((out / "train").glob("**/checkpoints"))
        (out / "options.yaml").write_text(yaml.safe_dump(values))

        command("train", "--config", str(out / "options.yaml"))
        done.touch()
        return out

    def evaluate(self, corpus: str, name: str, seed: int) -> dict[str, Any]:
        """Read metrics.json of a trained model, against the audio-visual ratings."""
        run = self._run(corpus, name, seed)
        if not (run / "test" / "metrics.json").exists():
            command(
                "evaluate",
                *("--checkpoint", *self._exports(run)),
                *("--shards", self.shards(corpus), "--out", str(run / "test")),
                *("--stimulus", "audiovisual", "--groups", ",".join(groups_of(corpus))),
            )

        found: dict[str, Any] = read_json(run / "test" / "metrics.json")
        return found

    def shards(self, corpus: str) -> str:
        """The pattern of a corpus' shards."""
        return f"{self.folder}/corpora/{corpus}/*.tar"

    def _run(self, corpus: str, name: str, seed: int) -> Path:
        return self.folder / "runs" / corpus / f"{plain(name)}-{seed}"

    def _exports(self, run: Path, fold: int | str | None = None) -> list[str]:
        """The exported model of a run; with folds, of each fold, or of `fold`."""
        if not self.sizes.folds:
            return [f"{run}/train/best"]
        folds = range(self.sizes.folds) if fold is None else [fold]
        return [f"{run}/train/fold-{one}/best" for one in folds]

    def _values(self, corpus: str, name: str, seed: int) -> dict[str, Any]:
        """The options of `emostream train`."""
        sizes, model = self.sizes, MODELS[name]
        values: dict[str, Any] = {
            "recipe": "two-stage",
            "shards": self.shards(corpus),
            "out": str(self._run(corpus, name, seed) / "train"),
            "data": {
                "target": {"kind": "ratings", "classes": classes_of(corpus)},
                # Only the number of utterances limits a batch.
                "utterances": {"batch_seconds": 1e6, "max_utterances": sizes.utterances},
            },
            "engine": {
                "num_steps": sizes.steps,
                "seed": seed + _OTHER_SEED * model.is_again,
                "validate_every": max(1, sizes.steps // 5),
                "checkpoint_every": sizes.steps,
            },
        }
        if sizes.folds:
            values["folds"] = "all"
            values["data"]["folds"] = f"speaker:{sizes.folds}"

        return values | self._shape(corpus, name, seed)

    def _shape(self, corpus: str, name: str, seed: int) -> dict[str, Any]:
        """The options of the model, and of its encoder where it has one of its own."""
        sizes, model = self.sizes, MODELS[name]
        if model.branches:
            branches = [
                export
                for branch in model.branches
                for export in self._exports(self._run(corpus, branch, seed), "{fold}")
            ]
            head = {} if model.options.get("join") == "average" else {"head_width": sizes.width}
            return {"model": {"branches": branches, **head, **model.options}}

        shape = {
            "hidden_size": sizes.width,
            "num_layers": sizes.layers,
            "num_heads": 4,
            "feed_forward": 2 * sizes.width,
            "head_width": sizes.width,
        }
        if model.inputs == "face":
            return {"model": {**shape, **model.options}}

        encoder = {
            "hidden_size": sizes.encoder_width,
            "intermediate_size": 2 * sizes.encoder_width,
            "num_layers": sizes.encoder_layers,
        }
        return {"encoder": encoder, "model": {**shape, "trains_encoder": True, **model.options}}


def classes_of(corpus: str) -> list[str]:
    """The classes in the order of Table 3; RAVDESS has surprise too."""
    six = ["anger", "sadness", "disgust", "fear", "neutral", "happiness"]
    return [*six, "surprise"] if corpus == RAVDESS else six


def groups_of(corpus: str) -> tuple[str, ...]:
    """The fields of the json whose groups are compared."""
    return ("sex",) if corpus == RAVDESS else ("sex", "background")


def plain(name: str) -> str:
    """A name as part of a path."""
    return name.replace(" ", "-").replace(",", "")

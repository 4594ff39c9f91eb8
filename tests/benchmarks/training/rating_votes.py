"""What people's votes alone predict: a yardstick for models of sound and face, without any media.

CREMA-D's clips were rated by people who only heard them, by others who only saw them, and by others
who did both. Here the votes of the first two are taken as predictions of the labels of the third,
as they are, and through a softmax regression on both that is trained on the other speakers. A model
that hears and sees should come near; one that falls short of either vote has lost something that
people found in that channel alone.

The tables go through `emostream import` into shards without media, and the figures are those of
`evaluate`; scikit-learn, which fits the regression, computes them once more.

Shapes: N clips, C classes, S columns of votes.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from shards.loading.folds import fold_of_utterances
from shards.loading.index import CorpusIndex, read_index
from shards.loading.targets import TargetConfig, Targets, read_stimuli
from tests import ROOT
from tests.benchmarks.measuring import emostream, machine, print_result
from trainers.evaluation.multilabel.rated_target import RatedTarget

DEFAULT_DATA = ROOT.parent / "shared" / "data"
FOLDS = "speaker:5"
# The folds that the paper's authors published with EMO-SUPERB: blocks of 18 actors, then 19.
AUTHORS_FOLDS, ACTORS_IN_FOLD, NUM_FOLDS = "given:fold", 18, 5
FIRST_ACTOR = 1001
CLASSES = ("neutral", "anger", "disgust", "fear", "happiness", "sadness")
# Inverse strength of the penalty; .1 to 100 move macro-F1 by less than .001.
PENALTY, MAX_ITERATIONS = 1.0, 1000
SEED = 0
BOTH = "softmax regression on both"

Answers = NDArray[np.float32]


def write_clips(data: Path, path: Path) -> None:
    """Write the table of utterances from the names of CREMA-D's files."""
    with (
        (data / "SentenceFilenames.csv").open(newline="") as names,
        path.open("w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["clip", "speaker", "transcript", "fold"])
        for row in csv.DictReader(names):
            speaker, sentence, _, _ = row["Filename"].split("_")
            block = (int(speaker) - FIRST_ACTOR) // ACTORS_IN_FOLD
            table.writerow([row["Filename"], speaker, sentence, min(block, NUM_FOLDS - 1)])


def import_votes(data: Path, folder: Path) -> CorpusIndex:
    """Import the clips with votes and demographics, and read the shards as training does."""
    write_clips(data, folder / "clips.csv")
    command = ["import", str(folder / "clips.csv"), "--root", str(folder)]
    command += ["--ratings", str(data / "tabulatedVotes.csv")]
    command += ["--speakers", str(data / "VideoDemographics.csv")]
    emostream(*command, "--out", str(folder / "shards"))

    return read_index(str(folder / "shards" / "*.tar"))


def predictors(rated: Mapping[str, Targets], folds_N: NDArray[np.int64]) -> dict[str, Answers]:
    """The answers [N, C] by what they are made of."""
    voice_NC, face_NC = rated["voice"].array, rated["face"].array
    truth_NC = rated["audiovisual"].array

    def fitted(*votes: Answers) -> Answers:
        return over_folds(
            folds_N,
            lambda train, test: softmax_regression(
                np.hstack(votes)[train], truth_NC[train], np.hstack(votes)[test]
            ),
        )

    return {
        "mean of the other speakers": over_folds(
            folds_N, lambda train, test: np.tile(truth_NC[train].mean(axis=0), (len(test), 1))
        ),
        "voice votes": voice_NC,
        "face votes": face_NC,
        "mean of voice and face votes": np.float32(0.5) * (voice_NC + face_NC),
        "softmax regression on voice votes": fitted(voice_NC),
        "softmax regression on face votes": fitted(face_NC),
        BOTH: fitted(voice_NC, face_NC),
        "audio-visual votes themselves": truth_NC,
    }


def over_folds(
    folds_N: NDArray[np.int64],
    answer: Callable[[NDArray[np.int64], NDArray[np.int64]], Answers],
) -> Answers:
    """The answers [N, C] to each fold, by what was learned of the others."""
    answers = np.full((len(folds_N), len(CLASSES)), np.nan, dtype=np.float32)

    for fold in np.unique(folds_N):
        test = np.flatnonzero(folds_N == fold)
        answers[test] = answer(np.flatnonzero(folds_N != fold), test)

    return answers


def softmax_regression(train_NS: Answers, shares_NC: Answers, test_NS: Answers) -> Answers:
    """The answers [N, C] of a regression that learned distributions of votes.

    scikit-learn learns one class a row, so each clip comes once for each class, with its share as
    weight; that is the cross-entropy with the distribution.
    """
    num_classes = shares_NC.shape[1]
    rows = np.repeat(train_NS, num_classes, axis=0)
    classes, weights = np.tile(np.arange(num_classes), len(train_NS)), shares_NC.ravel()
    given = weights > 0

    model = LogisticRegression(C=PENALTY, max_iter=MAX_ITERATIONS)
    model.fit(rows[given], classes[given], sample_weight=weights[given])
    return np.asarray(model.predict_proba(test_NS), dtype=np.float32)


def figures_of(truth: Targets, answers: Answers, speakers: NDArray[np.object_]) -> dict[str, float]:
    """Figures with intervals over speakers, and macro-F1 as scikit-learn computes it."""
    target = RatedTarget(CLASSES, TargetConfig(kind="ratings", classes=CLASSES))
    scores = target.score(truth, answers, speakers)
    intervals = target.intervals(scores, truth, answers, speakers, seed=SEED)
    judged = target.one_vs_rest(truth, answers)

    found = {name: value for name, value in asdict(scores).items() if name != "per_speaker"}
    found |= dict(zip(("macro_f1_low", "macro_f1_high"), intervals["macro_f1"], strict=True))
    found["scikit_learn"] = f1_score(judged.truth_NC, judged.chosen_NC, average="macro")
    return found


def print_figures(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a line for each predictor."""
    sys.stdout.write(
        f"\n{machine()}\nCREMA-D's audio-visual labels, folds {FOLDS} pooled, 95 % over speakers\n"
        f"{'predicted by':36s} macro-F1           scikit-learn  weighted  Brier    ECE\n"
    )
    for name, one in rows.items():
        interval = f"({one['macro_f1_low']:.3f}-{one['macro_f1_high']:.3f})"
        sys.stdout.write(
            f"{name:36s} {one['macro_f1']:.3f} {interval}  {one['scikit_learn']:12.3f} "
            f"{one['weighted_f1']:9.3f} {one['brier_score']:6.3f} {one['calibration_error']:6.3f}\n"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    options = parser.parse_args(arguments)

    data = options.data / "crema-d"
    if not (data / "tabulatedVotes.csv").exists():
        sys.stdout.write(f"no CREMA-D in {options.data}: skipped; see --data\n")
        return

    with tempfile.TemporaryDirectory() as name:
        index = import_votes(data, Path(name))

    rated = read_stimuli(index, TargetConfig(kind="ratings", classes=CLASSES), CLASSES)
    answers = predictors(rated, fold_of_utterances(index, FOLDS))
    answers["both, in the folds of EMO-SUPERB"] = predictors(
        rated, fold_of_utterances(index, AUTHORS_FOLDS)
    )[BOTH]
    rows = {
        name: figures_of(rated["audiovisual"], given, index.speaker_of_rows)
        for name, given in answers.items()
    }
    print_figures(rows)
    print_result("rating_votes", {**rows})


if __name__ == "__main__":
    main()

"""What to do with a teacher that lacks emotions: label quality against retention, by treatment.

Checkpoints with four classes are common. KL(first || second) is infinite wherever the first teacher
believes a little in an emotion that the second cannot name, so by the published rule such a pair
agrees on nothing. The treatments compared here are

- `published`: nothing is done, so that every distance is infinite;
- `floor E`: the second teacher gives each emotion that it lacks the probability E in place of 0,
  and KL is computed as published;
- `js`: the Jensen-Shannon divergence over all seven emotions;
- `restrict`: both are restricted to the emotions that both know, and renormalized;
- `..., apart`: an utterance is put apart if the first teacher gives more than half to emotions that
  the second lacks.

The worlds are RAVDESS (12 actors teach, the other 12 are labeled; two foldings) and synthetic
worlds of three seeds. The second teacher is trained anew on seven, five and four classes: it never
hears the others, as a real four-class checkpoint never did. All treatments are compared at the same
numbers of utterances kept, each ranking the utterances by its own distance; the true emotion may be
any of the seven. Intervals are over speakers. In the control, the second teacher's rows are dealt
out anew, so that whatever a treatment gains over the first teacher alone is not agreement: it
prefers utterances of which the first teacher says that they show an emotion both know.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.labeling.config import PanelConfig
from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from shards.config_values import from_mapping
from shards.emotions import EMOTIONS, NUM_EMOTIONS, canonical_emotion
from shards.media.audio import decode_audio
from shards.selection.agreement import Distance, pairwise_distance
from shards.selection.coverage import MAX_OUTSIDE_MASS, raised
from shards.selection.scores import Scorer
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from trainers.teachers.inputs import TeacherKind, TrainingUtterance, read_training_utterances
from trainers.teachers.train import TeacherConfig, train_teacher

DEFAULT_DATA = ROOT.parent / "shared" / "data"
# IEMOCAP's four classes, and five as in many call-center checkpoints.
KNOWN = {
    7: EMOTIONS,
    5: ("neutral", "anger", "fear", "happiness", "sadness"),
    4: ("neutral", "anger", "happiness", "sadness"),
}
SHARES_KEPT = (0.1, 0.2, 0.3, 0.4)
# Of KL as published; of JS, what keeps about as many synthetic utterances with seven classes.
THRESHOLD = {False: 1.0, True: 0.16}
FLOORS = (1e-2, 1e-3, 1e-4)

Probs = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """N labeled utterances: `first` and `second` [N, 7], `truth` and `speaker` [N] as numbers."""

    name: str
    first: Probs
    second: Probs
    truth: NDArray[np.int64]
    speaker: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Treated:
    """A treatment's `distance` and `label` of each utterance; infinite where it is put apart."""

    distance: NDArray[np.float64]
    label: NDArray[np.int64]


def ravdess(data: Path, *, swapped: bool) -> tuple[list[TrainingUtterance], ...]:
    """The utterances of the teaching and of the labeled actors."""
    units = pq.read_table(data / "face_clips.parquet").to_pydict()
    faces = dict(zip(units["clip"], units["action_units"], strict=True))

    parts: tuple[list[TrainingUtterance], ...] = ([], [])
    with (data / "clips.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            is_late = int(row["speaker"].rpartition("_")[2]) > 12
            parts[is_late != swapped].append(
                TrainingUtterance(
                    speaker=row["speaker"],
                    label=canonical_emotion(row["emotion"].replace("calm", "neutral")) or "",
                    audio=decode_audio((data / row["audio"]).read_bytes()),
                    face_features=np.asarray([faces[row["clip"]]], dtype=np.float32),
                )
            )

    return parts


def synthetic(seed: int, folder: Path) -> tuple[list[TrainingUtterance], ...]:
    """The utterances of 40 teaching speakers and 60 labeled ones."""
    parts = []
    for name, speakers in {"teach": range(40), "label": range(40, 100)}.items():
        out = folder / f"{seed}-{name}"
        write_corpus(WorldConfig(seed=seed), str(out), speakers=speakers)
        parts.append(read_training_utterances(f"{out}/*.tar", ("audio", "text")))

    return tuple(parts)


def predict(
    kind: TeacherKind,
    known: Sequence[str],
    teaching: Sequence[TrainingUtterance],
    labeled: Sequence[TrainingUtterance],
    seed: int,
    folder: Path,
) -> Probs:
    """What a teacher that has only ever heard of the emotions `known` says of `labeled`, [N, 7]."""
    kept = folder.with_suffix(".npy")
    if kept.exists():
        return np.asarray(np.load(kept))

    lessons = [utterance for utterance in teaching if utterance.label in known]
    train_teacher(kind, lessons, replace(TeacherConfig.for_kind(kind), seed=seed), folder)

    name = {"face": "vision"}.get(kind, kind)
    panel = Panel(
        from_mapping(PanelConfig, {name: {"checkpoint": str(folder)}, "precision": "float32"})
    )
    panel.setup(num_threads=1)
    inputs = [
        Utterance(
            index=number,
            key=str(number),
            offset=0,
            size=0,
            audio=utterance.audio,
            face_features=utterance.face_features,
            transcript=utterance.transcript,
        )
        for number, utterance in enumerate(labeled)
    ]

    probs = np.array([getattr(row, name) for row in panel.label(inputs)], dtype=np.float64)
    np.save(kept, probs)
    return probs


def worlds(data: Path, seeds: int, folder: Path) -> Iterator[tuple[str, int, World]]:
    """(world, number of classes, the labeled utterances) of every world and second teacher."""
    plans: list[tuple[str, TeacherKind, int]] = [
        ("synthetic", "text", seed) for seed in range(seeds)
    ]
    if (data / "ravdess" / "clips.csv").exists():
        plans += [("ravdess", "face", seed) for seed in range(2)]

    for name, kind, seed in plans:
        if name == "ravdess":
            teaching, labeled = ravdess(data / "ravdess", swapped=seed == 1)
        else:
            teaching, labeled = synthetic(seed, folder)

        speakers = sorted({utterance.speaker for utterance in labeled})
        first = predict(kind, EMOTIONS, teaching, labeled, seed, folder / f"{name}-{seed}-{kind}")
        for num_classes, known in KNOWN.items():
            out = folder / f"{name}-{seed}-audio-{num_classes}"
            yield (
                name,
                num_classes,
                World(
                    name=f"{name} {seed}",
                    first=first,
                    second=predict("audio", known, teaching, labeled, seed, out),
                    truth=np.array([EMOTIONS.index(one.label) for one in labeled]),
                    speaker=np.array([speakers.index(one.speaker) for one in labeled]),
                ),
            )


def treatments(world: World, num_classes: int) -> dict[str, Treated]:
    """Every treatment of a pair of teachers."""
    shared = np.isin(EMOTIONS, KNOWN[num_classes])
    outside = world.first[:, ~shared].sum(axis=1)

    found = {"published": _treat(world.first, world.second, "kl")}
    for floor in FLOORS:
        found[f"floor {floor:g}"] = _treat(world.first, raised(world.second, shared, floor), "kl")
    found["js"] = _treat(world.first, world.second, "js")
    found["restrict"] = _treat(_inside(world.first, shared), _inside(world.second, shared), "kl")

    for name in ("floor 0.001", "js", "restrict"):
        apart = np.where(outside > MAX_OUTSIDE_MASS, np.inf, found[name].distance)
        found[f"{name}, apart"] = Treated(apart, found[name].label)

    return found


def _treat(first: Probs, second: Probs, distance: Distance) -> Treated:
    return Treated(
        pairwise_distance([first, second], distance), np.argmax((first + second) / 2, axis=1)
    )


def _inside(probs: Probs, shared: NDArray[np.bool_]) -> Probs:
    inside = np.where(shared, probs, 0.0)
    return inside / inside.sum(axis=1, keepdims=True)


def keep(treated: Treated, number: int) -> NDArray[np.int64]:
    """The labels of the `number` utterances on which the teachers agree most, and -1 for others."""
    order = np.argsort(treated.distance, kind="stable")[:number]
    label = np.full(len(treated.label), -1)
    chosen = order[np.isfinite(treated.distance[order])]
    label[chosen] = treated.label[chosen]

    return label


def measure(parts: Sequence[World], num_classes: int) -> dict[str, dict[str, dict[str, float]]]:
    """For each treatment: the share within KL 1, and accuracy with interval at each share kept.

    The worlds are pooled, each with speakers of its own; ranking and keeping are done per world.
    """
    truth = np.concatenate([part.truth for part in parts])
    speaker = np.concatenate([100 * i + part.speaker for i, part in enumerate(parts)])
    scorer = Scorer(truth, speaker, list(range(NUM_EMOTIONS)), seed=0)
    treated = [treatments(part, num_classes) for part in parts]

    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in treated[0]:
        agreeing = [one[name].distance <= THRESHOLD[name.startswith("js")] for one in treated]
        labels = [
            np.where(which, one[name].label, -1)
            for which, one in zip(agreeing, treated, strict=True)
        ]
        scores = scorer.scores(scorer.confusion(np.concatenate(labels)))
        found[name] = {
            "share": {"value": float(np.concatenate(agreeing).mean())},
            "agreeing": scores["accuracy"],
        }
        for share in SHARES_KEPT:
            labels = [keep(one[name], round(share * len(one[name].label))) for one in treated]
            scores = scorer.scores(scorer.confusion(np.concatenate(labels)))
            found[name][f"{share}"] = scores["accuracy"] | {"n": scores["n"]}

    alone = np.concatenate([part.first.argmax(axis=1) for part in parts])
    found["first alone"] = {"all": scorer.scores(scorer.confusion(alone))["accuracy"]}
    return found


def dealt_out(world: World) -> World:
    """The control: the second teacher speaks of other utterances."""
    order = np.random.default_rng(0).permutation(len(world.second))
    return replace(world, second=world.second[order])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder to keep teachers and predictions in"
    )
    options = parser.parse_args()

    groups: dict[tuple[str, int], list[World]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for name, num_classes, world in worlds(options.data, options.seeds, folder):
            groups.setdefault((name, num_classes), []).append(world)

    sys.stdout.write(f"\n{machine()}\n")
    results = {}
    for (name, num_classes), parts in groups.items():
        for kind, members in (("", parts), (" (control)", [dealt_out(one) for one in parts])):
            found = measure(members, num_classes)
            print_table(f"{name}, second teacher knows {num_classes}{kind}", found)
            results[f"{name}-{num_classes}{kind}"] = found
    print_result("missing_emotions", {"results": results})


def print_table(title: str, found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Accuracy (95 %) of what each treatment keeps, at the same shares kept."""
    sys.stdout.write(f"\n{title}; first teacher alone {_interval(found['first alone']['all'])}\n")
    heads = "".join(f"{share:>22.0%}" for share in SHARES_KEPT)
    sys.stdout.write(f"{'treatment':20s}{'within the threshold':>29s}{heads}\n")

    for name, scores in found.items():
        if "share" in scores:
            cells = "".join(f"{_interval(scores[str(share)]):>22s}" for share in SHARES_KEPT)
            share, agreeing = scores["share"]["value"], _interval(scores["agreeing"])
            sys.stdout.write(f"{name:20s}{share:7.1%}{agreeing:>22s}{cells}\n")


def _interval(score: dict[str, float]) -> str:
    if np.isnan(score["value"]):
        return "-"
    return f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"


if __name__ == "__main__":
    main()

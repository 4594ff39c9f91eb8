"""The worlds of the two-stage benchmark, and what is known about each before any training.

- `fitted`: raters as in CREMA-D, groups of speakers that do not differ.
- `conflicting`: voice and face show different emotions far more often.
- `null`: one poll stands for all three stimuli, so ratings by voice and by face add nothing.
- `unfair`: raters get half of the evidence from speakers of one background, who show as much.
- `unequal`: speakers of one background feel anger more often, and are read as well as others.

Run as a program, this prints how near the votes are to CREMA-D's, and what a model that knows what
is shown, but not who shows it, would score by groups: the unfairness that trained models should
find, and in the first three worlds none. No configured shift touches the sexes, but they are heard:
they speak with different hidden groups, whose habits and priors differ a little in every world.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.synthetic.config import WorldConfig, acted_world
from shards.synthetic.corpus import World, write_corpus
from shards.synthetic.demographics import DemographicsConfig, Subgroup
from shards.synthetic.raters import vote_probabilities
from tests.benchmarks.measuring import machine, print_result
from tests.worlds.votes import (
    CREMA_D,
    FIGURES,
    NUM_FOLDS,
    figures_of,
    labels_of,
    votes_of,
)

WORLDS = ("fitted", "conflicting", "null", "unfair", "unequal")
NUM_SPEAKERS = 60
_NUM_JUDGED = 150
_SEEDS = range(3)


def world_config(kind: str, seed: int) -> WorldConfig:
    """The world `kind`, one of WORLDS. Raises ValueError for any other."""
    fitted = replace(acted_world(seed=seed), demographics=_backgrounds())

    if kind == "fitted":
        return fitted
    if kind == "conflicting":
        return replace(
            fitted,
            voice=replace(fitted.voice, conflict_rate=0.3),
            face=replace(fitted.face, conflict_rate=0.25),
        )
    if kind == "null":
        return replace(fitted, raters=replace(fitted.raters, perceive="everything"))
    if kind == "unfair":
        return replace(fitted, demographics=_backgrounds(legibility=0.5))
    if kind == "unequal":
        anger = tuple(1.5 if emotion == "anger" else 0.0 for emotion in EMOTIONS)
        return replace(fitted, demographics=_backgrounds(prior=anger))
    raise ValueError(f"world: got {kind!r}, expected one of {', '.join(WORLDS)}")


def make_world(
    folder: Path, config: WorldConfig, speakers: Sequence[int] = range(NUM_SPEAKERS)
) -> None:
    """Write the utterances of `speakers` as shards into `folder`, unless all are there."""
    if (folder / "_complete").exists():
        return

    write_corpus(config, str(folder), speakers=speakers, num_workers=os.cpu_count() or 1)
    (folder / "_complete").touch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Utterances `[N]`: audio-visual labels, those of the informed model, and speakers' groups."""

    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    groups: dict[str, NDArray[np.str_]]


def judge(world: World, num_speakers: int) -> Judged:
    """What a model that knows what is shown, and no more, says of the first speakers' labels.

    It answers with the votes that utterances without noise would get from an ordinary person. No
    model that cannot tell who is hard to read does better by much.
    """
    votes, predicted, groups = [], [], []
    for index in range(num_speakers):
        person = world.speaker(index)
        assert person.demographics is not None
        for utterance in range(person.num_utterances):
            truth = world.truth(person, utterance)
            votes.append(list(world.ratings(person, utterance)["audiovisual"].values()))
            predicted.append(
                vote_probabilities(
                    world.config.raters,
                    truth.shown,
                    intensity=truth.intensity,
                    noise=np.zeros(NUM_EMOTIONS),
                )["audiovisual"]
            )
            groups.append((person.demographics.background.name, person.demographics.sex.name))

    backgrounds, sexes = np.array(groups).T
    probabilities = np.array(predicted)

    return Judged(
        labels=labels_of(np.array(votes)),
        predicted=probabilities > 1 / probabilities.shape[1],
        groups={"background": backgrounds, "sex": sexes},
    )


def unfairness(judged: Judged, field: str) -> dict[str, float]:
    """Differences between the two groups of `field`, the second in order less the first.

    Macro-F1, and by how much the rate of anger and the mean true positive rate differ.
    """
    first, second = (_of_group(judged, field, name) for name in _names(judged, field))
    return {name: second[name] - first[name] for name in first}


def _of_group(judged: Judged, field: str, name: str) -> dict[str, float]:
    inside = judged.groups[field] == name
    labels, predicted = judged.labels[inside], judged.predicted[inside]
    hits = (labels & predicted).sum(axis=0) / labels.sum(axis=0)

    return {
        "macro-F1": float(f1_score(labels, predicted, average="macro")),
        "rate of anger": float(predicted[:, EMOTIONS.index("anger")].mean()),
        "true positive rate": float(hits.mean()),
    }


def _names(judged: Judged, field: str) -> list[str]:
    return sorted(set(judged.groups[field].tolist()))


def _backgrounds(*, legibility: float = 1.0, prior: tuple[float, ...] = ()) -> DemographicsConfig:
    """Two backgrounds, large enough to be judged; only the second one is set apart."""
    return DemographicsConfig(
        background=(
            Subgroup(name="north", share=0.6),
            Subgroup(name="south", share=0.4, legibility=legibility, prior=prior),
        )
    )


def main() -> int:
    print(f"{machine()}\n\n{NUM_SPEAKERS} speakers, mean of {len(_SEEDS)} seeds")
    votes = {kind: _votes_figures(kind) for kind in WORLDS}
    print(f"{'':38}{'CREMA-D':>12}" + "".join(f"{kind:>12}" for kind in WORLDS))
    for name, real in zip(FIGURES, CREMA_D, strict=True):
        made = "".join(f"{votes[kind][name]:12.3f}" for kind in WORLDS)
        print(f"{name:38}{real:12.3f}{made}")

    print(f"\nA model that knows what is shown, {_NUM_JUDGED} speakers, mean of the seeds")
    unfair = {kind: _unfairness_figures(kind) for kind in WORLDS}
    for kind, compared in unfair.items():
        for groups, found in compared.items():
            shown = "  ".join(f"{name} {value:+.3f}" for name, value in found.items())
            print(f"{kind:12} {groups:20} {shown}")

    print_result("training.two_stage_worlds", {"votes": votes, "unfairness": unfair})
    return 0


def _votes_figures(kind: str) -> dict[str, float]:
    """FIGURES by name, as a mean of the seeds."""
    found = []
    for seed in _SEEDS:
        votes, speakers = votes_of(World(world_config(kind, seed)), NUM_SPEAKERS)
        found.append(figures_of(votes, speakers % NUM_FOLDS))

    return dict(zip(FIGURES, np.mean(found, axis=0).tolist(), strict=True))


def _unfairness_figures(kind: str) -> dict[str, dict[str, float]]:
    """What `unfairness` finds between two backgrounds and two sexes, as a mean of the seeds."""
    judged = [judge(World(world_config(kind, seed)), _NUM_JUDGED) for seed in _SEEDS]
    figures = {}

    for field in ("background", "sex"):
        found = [unfairness(one, field) for one in judged]
        figures[" less ".join(reversed(_names(judged[0], field)))] = {
            name: float(np.mean([one[name] for one in found])) for name in found[0]
        }

    return figures


if __name__ == "__main__":
    sys.exit(main())

"""The evaluation's page shows what metrics.json holds, whatever the speakers are called."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.pages.embedding_map import Places
from cluster.pages.evaluation import evaluation_page
from shards.loading.targets import Targets
from tests.cluster.pages.browser import SCREENS, Browser, needs_browser
from tests.cluster.pages.test_report import HOSTILE, Elements
from tests.trainers.evaluation.fairness.made_answers import make_grouping
from trainers.evaluation.fairness.document import judge
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.targets import target_of

NUM_SPEAKERS = 12
CONFIG = {
    "checkpoint": "runs/one/best",
    "split": "test",
    "set_size": 8,
    "support": "same",
    "pldc": "mu",
    "neighbors": 5,
}


def class_metrics() -> dict[str, Any]:
    """Return what `evaluate` writes for a classifier; one speaker has a hostile name."""
    speakers = {
        f"{'s' * 30}-{number:02d}": {
            "number": 10 + number,
            "accuracy": number / NUM_SPEAKERS,
            "f1": 0.5,
        }
        for number in range(NUM_SPEAKERS)
    }
    speakers[HOSTILE] = {"number": 3, "accuracy": 0.0, "f1": 0.0}

    return {
        "number": 189,
        "num_speakers": len(speakers),
        "truth": "true emotion",
        "num_without_truth": 3,
        "names": ["neutral", "anger"],
        "scores": {
            "accuracy": 0.512,
            "macro_f1": 0.498,
            "speaker_accuracy": 0.613,
            "speaker_accuracy_std": 0.124,
            "speaker_f1": 0.401,
            "speaker_f1_std": 0.2,
        },
        "per_speaker": speakers,
        "confusion": [[90, 10], [30, 59]],
        "codes_used": 14,
        "config": CONFIG,
    }


def value_metrics() -> dict[str, Any]:
    """Return what `evaluate` writes for two values, one of them badly predicted."""
    speakers = {
        f"s{number}": {"number": 5, "ccc": [0.5 - number / 10, -0.4]} for number in range(4)
    }
    scores = {
        "overall": [0.41, 0.02],
        "over_speakers": [0.35, -0.4],
        "over_speakers_std": [0.11, 0.0],
    }

    return class_metrics() | {
        "names": ["arousal", "valence"],
        "scores": scores,
        "per_speaker": speakers,
        "num_speakers": 4,
    }


def rated_metrics() -> dict[str, Any]:
    """Return what `evaluate --groups` writes for ratings; one group is small, and hostile."""
    rng = np.random.default_rng(0)
    names = ("neutral", "anger", "a very long name of an emotion")
    speaker = np.arange(220) // 10
    place = np.where(speaker == 21, 2, speaker % 2)
    target = RatedTarget(names)
    truth = Targets("ratings", names, rng.dirichlet([1, 1, 1], 220).astype(np.float32))
    probs = rng.dirichlet([1, 1, 1], 220).astype(np.float32)
    speakers = np.asarray([f"s{number:02d}" for number in speaker], dtype=object)

    grouping = make_grouping("sex", ["Female", "Male", HOSTILE], place, speaker)
    answers, scores = target.one_vs_rest(truth, probs), target.score(truth, probs, speakers)
    details = asdict(scores)
    return class_metrics() | {
        "names": names,
        "number": details.pop("number"),
        "num_speakers": 22,
        "truth": "audiovisual ratings",
        "per_speaker": details.pop("per_speaker"),
        "scores": details,
        "intervals": target.intervals(scores, truth, probs, speakers, seed=0),
        **judge(answers, [grouping], speakers, target, 0).document,
    }


def places(number: int) -> Places:
    points = np.random.default_rng(0).standard_normal((number, 2))
    return Places(points, [np.asarray([row]) for row in range(number)])


def render(metrics: dict[str, Any], number: int = 20) -> str:
    columns = {
        "speaker": [HOSTILE] * number,
        "demographics.age": [str(20 + row) for row in range(number)],
    }
    kind = target_of(metrics).kind
    return evaluation_page(
        metrics, kind, places(number) if number else None, columns, personalized=True
    )


def test_the_page_shows_the_figures() -> None:
    """The page has the four figures of the papers, the confusion, and a dot for each speaker."""
    page = Elements(render(class_metrics()))

    for words in (
        "ACC",
        "51.2 %",
        "49.8 %",
        "61.3 ± 12.4 %",
        "40.1 ± 20.0 %",
        "true emotion",
        "59",
    ):
        assert words in page.text

    dots = page.named("circle")
    assert len(dots) == NUM_SPEAKERS + 1 + 2 * 20  # speakers, and two maps
    assert "8 of 13 speakers" in page.text


def test_f1_bias_stands_with_its_interval() -> None:
    """The page tells how far apart the F1 of classes are, and the interval over speakers."""
    metrics = class_metrics() | {"intervals": {"f1_bias": [0.041, 0.127]}}
    metrics["scores"] |= {"f1_bias": 0.083}
    text = Elements(render(metrics)).text
    for words in ("F1 bias", "mean difference of two classes' F1", "8.3 %", "4.1 % to 12.7 %"):
        assert words in text


def test_values_have_concordances() -> None:
    """The page of values has O-CCC and A-CCC of each value, and no confusion."""
    text = Elements(render(value_metrics())).text
    for words in ("O-CCC arousal", "0.410", "A-CCC valence", "-0.400 ± 0.000"):
        assert words in text
    assert "Confusion" not in text


def test_ratings_have_emotions_and_groups() -> None:
    """The page shows each emotion, each group with what is too small, and the diagram's dots."""
    metrics = rated_metrics()
    page = Elements(render(metrics))
    emotion = metrics["one_vs_rest"]["emotions"]["anger"]
    by_sex = metrics["fairness"]["fields"]["sex"]
    bias, odds = (by_sex["differences"][name] for name in ("macro_f1_bias", "equalized_odds_worst"))
    for words in (
        f"{emotion['f1']['value']:.3f}",
        "{:.3f} to {:.3f}".format(*emotion["f1"]["by_speaker"]),
        "{:.2f} to {:.2f}".format(*bias["by_utterance"]),
        f"{odds['p']:.3f}",
        "10 utterances of 1 speaker",
        "probability above 1/3",
    ):
        assert words in page.text
    assert not page.named("script")

    dots = sum(
        len(points)
        for name, points in metrics["one_vs_rest"]["reliability"].items()
        if name != "all"
    )
    assert len(page.named("circle")) == dots + 22 + 2 * 20  # bins, speakers, and two maps


def test_names_cannot_become_markup() -> None:
    """The page shows a speaker's name that is a script, and does not run it."""
    page = Elements(render(class_metrics()))
    assert not page.named("script")
    assert not page.named("img")
    assert "alert(1)" in page.text


def test_too_few_embeddings_are_said_to_be() -> None:
    """A page without a map says why it has none."""
    assert (
        "There are too few points to place on a plane: at least 8 are needed."
        in Elements(render(class_metrics(), number=0)).text
    )


@needs_browser
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize(
    "metrics",
    [class_metrics(), value_metrics(), rated_metrics()],
    ids=["classes", "values", "ratings"],
)
def test_the_page_fits_and_its_charts_are_readable(
    browser: Browser, tmp_path: Path, metrics: dict[str, Any], screen: str
) -> None:
    """In a real browser, the page fits three widths and no label lies over another."""
    page = tmp_path / "evaluation.html"
    page.write_text(render(metrics), encoding="utf-8")
    assert browser.page_faults(page, screen) == []
    assert browser.chart_faults() == []

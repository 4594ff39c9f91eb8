"""The evaluation's page shows what metrics.json holds, whatever the speakers are called."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.pages.embedding_map import Places
from cluster.pages.evaluation import evaluation_page
from tests.cluster.pages.browser import SCREENS, Browser, needs_browser
from tests.cluster.pages.test_report import HOSTILE, Elements
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
@pytest.mark.parametrize("metrics", [class_metrics(), value_metrics()], ids=["classes", "values"])
def test_the_page_fits_and_its_charts_are_readable(
    browser: Browser, tmp_path: Path, metrics: dict[str, Any], screen: str
) -> None:
    """In a real browser, the page fits three widths and no label lies over another."""
    page = tmp_path / "evaluation.html"
    page.write_text(render(metrics), encoding="utf-8")
    assert browser.page_faults(page, screen) == []
    assert browser.chart_faults() == []

"""What the two labeling benchmarks share: seeded utterances, a pipeline, and one panel.

It imports neither Ray nor a codec, so it runs on a GPU machine that has only torch and
transformers.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.labeling.config import PanelConfig
from actors.labeling.panel import Panel
from actors.reading.utterance import Utterance
from shards.config_values import from_mapping
from shards.emotions import EMOTIONS
from shards.media.sound_format import SAMPLE_RATE_HZ

MIN_SECONDS, MAX_SECONDS = 1.5, 12.0
WINDOW = 64  # utterances a panel is given at once, as in a labeling job


def make_utterances(number: int, seed: int = 0) -> list[Utterance]:
    """Make noise of 1.5 to 12 s, in log-uniform lengths with a mean of 5 s.

    Noise will do, because speed does not depend on the sound.
    """
    rng = np.random.default_rng(seed)
    sounds = []
    for _ in range(number):
        length = np.exp(rng.uniform(np.log(MIN_SECONDS), np.log(MAX_SECONDS)))
        sounds.append(0.1 * rng.standard_normal(round(length * SAMPLE_RATE_HZ)).astype(np.float32))
    return [
        Utterance(index=i, key=f"u{i}", offset=0, size=0, audio=sound)
        for i, sound in enumerate(sounds)
    ]


def total_seconds(utterances: Sequence[Utterance]) -> float:
    """Count the seconds of sound."""
    return (
        sum(len(utterance.audio) for utterance in utterances if utterance.audio is not None)
        / SAMPLE_RATE_HZ
    )


def load_panel(checkpoint: Path, precision: str, num_threads: int) -> Panel:
    """Load a panel of one audio labeler, ready to label.

    A forced precision is kept, whatever its drift.
    """
    values = {"audio": {"checkpoint": str(checkpoint)}, "precision": precision, "max_drift": 0.99}
    panel = Panel(from_mapping(PanelConfig, values))
    panel.setup(num_threads)
    return panel


def label_all(panel: Panel, utterances: Sequence[Utterance]) -> NDArray[np.float32]:
    """Compute probabilities [N, 7], window by window."""
    rows = []
    for start in range(0, len(utterances), WINDOW):
        rows += [prediction.audio for prediction in panel.label(utterances[start : start + WINDOW])]
    return np.stack(rows)  # type: ignore[arg-type]  # every utterance has sound, and so a prediction


def load_pipeline(checkpoint: Path, device: str) -> Any:
    """Load the alternative, `transformers.pipeline`, to be called once per file."""
    from transformers import pipeline

    return pipeline(
        "audio-classification", model=str(checkpoint), device=device, top_k=len(EMOTIONS)
    )


def pipeline_all(classify: Any, utterances: Sequence[Utterance]) -> NDArray[np.float32]:
    """Compute probabilities [N, 7] with one pipeline call per utterance."""
    rows = []
    for utterance in utterances:
        scores = {answer["label"]: answer["score"] for answer in classify(utterance.audio)}
        rows.append([scores[emotion] for emotion in EMOTIONS])
    return np.asarray(rows, dtype=np.float32)


def timed(run: Any, *arguments: Any) -> tuple[float, NDArray[np.float32]]:
    """Return wall seconds and result; this waits for the GPU before and after."""
    _wait()
    started = time.perf_counter()
    result = run(*arguments)
    _wait()
    return time.perf_counter() - started, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

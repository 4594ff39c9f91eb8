"""Compares `emostream predict` on sound files with `transformers.pipeline("audio-classification")`.

`python -m tests.benchmarks.labeling.predict_against_pipeline [--files FOLDER] [--num-files 12]
[--family hubert|wav2vec2] [--extractor group|layer] [--layers 12] [--batch-size 1] [--repeats 5]
[--device cpu|cuda]`

The model has the size of HuBERT or wav2vec 2.0 base and random weights (speed does not depend on
them), exported as `emostream train` exports it, so that both sides open the same folder. Both read
the same files from disk, one after another, in one process with all cores; the time to load the
model does not count. --files is a folder with 16 kHz sound, such as RAVDESS or LibriSpeech; without
it, noise of 1.5 to 12 s is written as FLAC. The pipeline gets what soundfile reads, as its own
reading of files starts an ffmpeg for each. On a GPU, --batch-size is the pipeline's; ours forms its
own batches.

Rounds come in pairs, the pipeline's and ours in turn, and the median of the pairs' ratios is given.
On a CPU a second ratio compares processor seconds, which other processes of the machine disturb
less. It needs neither Ray nor DeepSpeed; --device cuda runs the same code.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from transformers import HubertConfig, Wav2Vec2Config, pipeline
from transformers.utils import logging as transformers_logging

from actors.predicting.config import PredictConfig
from actors.predicting.predicting import DecodedRecordings, Predictor
from actors.predicting.recognizers import PieceRecognizer
from actors.predicting.recordings import recordings_of_files
from shards.emotions import EMOTIONS
from shards.progress import unseen
from tests.benchmarks.labeling.panel_runs import make_utterances
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.checkpoints import HEAD_STD
from trainers.models.audio_classification import export_recognizer
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig

FAMILIES = {"hubert": HubertConfig, "wav2vec2": Wav2Vec2Config}
TARGET = 1.0  # not slower than the pipeline


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over all files: wall and processor seconds, and the probabilities [N, 7]."""

    seconds: float
    processor_seconds: float
    probabilities: NDArray[np.float32]


def write_model(folder: Path, options: argparse.Namespace) -> None:
    """Export a recognizer of base size."""
    torch.manual_seed(0)
    encoder = FAMILIES[options.family](
        num_hidden_layers=options.layers, feat_extract_norm=options.extractor
    )
    config = RecognizerConfig(
        encoder=encoder.to_dict(),
        normalise=options.extractor == "layer",
        names=list(EMOTIONS),
    )
    model = EmotionRecognizer(config)
    torch.nn.init.normal_(model.classifier.weight, std=HEAD_STD)
    export_recognizer(model, folder)


def sound_files(options: argparse.Namespace, folder: Path) -> list[str]:
    """Files spread evenly over those of --files, or files of noise."""
    if options.files is not None:
        found = sorted(str(path) for path in Path(options.files).rglob("*.flac"))
        found += sorted(str(path) for path in Path(options.files).rglob("*.wav"))
        if not found:
            sys.exit(f"--files {options.files}: holds no .flac and no .wav")
        return found[:: max(1, len(found) // options.num_files)][: options.num_files]

    paths = []
    for number, utterance in enumerate(make_utterances(options.num_files)):
        paths.append(str(folder / f"{number:04d}.flac"))
        soundfile.write(paths[-1], utterance.audio, 16_000)
    return paths


def pipeline_round(classify: Any, paths: list[str], batch_size: int) -> NDArray[np.float32]:
    """The probabilities [N, 7] that the pipeline gives."""

    def sounds() -> Any:
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            yield {"raw": samples, "sampling_rate": rate}

    rows = []
    for answers in classify(sounds(), batch_size=batch_size):
        scores = {answer["label"]: answer["score"] for answer in answers}
        rows.append([scores[emotion] for emotion in EMOTIONS])
    return np.asarray(rows, dtype=np.float32)


def predict_round(
    recognizer: PieceRecognizer, config: PredictConfig, paths: list[str]
) -> NDArray[np.float32]:
    """The probabilities [N, 7] that `emostream predict` gives."""
    sounds = DecodedRecordings(recordings_of_files(paths, None), config)
    found = Predictor(recognizer, config, sounds).predict(unseen)
    return np.stack([one.scores for one in found if one.scores is not None])


def measured(run: Callable[[], NDArray[np.float32]], device: str) -> Round:
    """One round; the GPU is waited for before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    started, processor = time.perf_counter(), time.process_time()
    probabilities = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return Round(time.perf_counter() - started, time.process_time() - processor, probabilities)


def main() -> None:
    """Make the model and the sounds, recognize them each way in turn, and print the comparison."""
    options = parsed()
    transformers_logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "best", options)
        paths = sound_files(options, folder)
        hours = sum(soundfile.info(path).duration for path in paths) / 3600

        classify = pipeline(
            "audio-classification",
            model=str(folder / "best"),
            device=options.device,
            top_k=len(EMOTIONS),
        )
        config = PredictConfig(
            checkpoint=str(folder / "best"), audio=tuple(paths), out="answers.csv"
        )
        recognizer = PieceRecognizer(config.checkpoint)
        recognizer.setup(torch.get_num_threads())

        sides: dict[str, Callable[[], NDArray[np.float32]]] = {
            "pipeline": lambda: pipeline_round(classify, paths, options.batch_size),
            "predict": lambda: predict_round(recognizer, config, paths),
        }
        rounds: dict[str, list[Round]] = {name: [] for name in sides}
        for run in sides.values():
            run()  # memory is reserved, and on a GPU kernels are chosen, on first use
        for _ in range(options.repeats):
            for name, run in sides.items():
                rounds[name].append(measured(run, options.device))

    report(options, len(paths), hours, rounds)


def report(
    options: argparse.Namespace, num_files: int, hours: float, rounds: dict[str, list[Round]]
) -> None:
    """Print the table and the line of JSON."""
    pairs = list(zip(rounds["pipeline"], rounds["predict"], strict=True))
    ratios = {"wall": statistics.median(one.seconds / two.seconds for one, two in pairs)}
    if options.device == "cpu":
        ratios["processor"] = statistics.median(
            one.processor_seconds / two.processor_seconds for one, two in pairs
        )
    rates = {
        name: hours / (statistics.median(one.seconds for one in found) / 3600)
        for name, found in rounds.items()
    }
    difference = float(np.abs(pairs[-1][0].probabilities - pairs[-1][1].probabilities).max())

    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    sys.stdout.write(
        f"{machine()}; {device}; {options.family}, {options.extractor} norm, {options.layers} "
        f"layers; {num_files} files, {3600 * hours:.0f} s of sound, {options.repeats} pairs\n"
    )
    for name, rate in rates.items():
        sys.stdout.write(f"  {name:10s} {rate:8.1f} audio-hours an hour\n")
    for name, ratio in ratios.items():
        sys.stdout.write(f"  ratio of {name} time {ratio:.2f} (target {TARGET:g})\n")
    sys.stdout.write(f"  largest difference in a probability: {difference:.2g}\n")

    figures = {"device": device, "audio_hours_an_hour": rates, "ratios": ratios}
    print_result("predict", {**figures, "largest_difference": difference})


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", help="folder with sound; without it, noise")
    parser.add_argument("--num-files", type=int, default=12, help="files a round")
    parser.add_argument("--family", choices=list(FAMILIES), default="hubert")
    parser.add_argument(
        "--extractor", choices=["group", "layer"], default="group", help="norm of the extractor"
    )
    parser.add_argument("--layers", type=int, default=12, help="transformer layers; base has 12")
    parser.add_argument("--batch-size", type=int, default=1, help="of the pipeline")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Measures the FLOPs utilization of a training step, with PyTorch alone and with the engine.

    python -m tests.benchmarks.training.training_gpu [--size base|large] [--layers N]
        [--recipe finetune|setpeer]
        [--repeats 5]

The recognizer has the size of HuBERT and runs on one device. Utilization is the floating-point
operations that the model asks for, over those that the device can do in the same time. The former
are forward and backward, counted by `torch.utils.flop_counter` on one step. The latter is measured
in the same run by a large matrix product in the same precision: that product is the limit.
Attention and convolutions are counted; norms, activations and the optimizer are not, so 100 %
cannot be reached.

Sounds are noise of one length, already on the device, so that only the step is measured. It needs
no Ray; without deepspeed it measures PyTorch alone, and a line says so. On a CPU a shallow model on
little sound runs through the same code.
"""

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig

from shards.emotions import EMOTIONS
from shards.loading.loader import Batch, Padded
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.benchmarks.measuring import MIB, machine, print_result
from tests.benchmarks.training.checkpoints import SIZES
from trainers.engine.process_group import deepspeed_config, join_group
from trainers.evaluation.targets import ClassTarget
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.recipes.recognition.model import RecognitionModel
from trainers.settings.engine import EngineConfig

SET_SIZE = 8


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="base", help="size of HuBERT")
    parser.add_argument(
        "--layers", type=int, default=None if on_gpu else 2, help="layers, if fewer than the size's"
    )
    parser.add_argument("--recipe", choices=["finetune", "setpeer"], default="finetune")
    parser.add_argument(
        "--utterances",
        type=int,
        default=64 if on_gpu else 8,
        help="utterances in a batch, in sets of 8",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0 if on_gpu else 2.0, help="seconds of each utterance"
    )
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32"
    )
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 3, help="steps in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are given")
    options = parser.parse_args()

    device = torch.device("cuda" if on_gpu else "cpu")
    batch = make_batch(options.utterances, options.seconds).to(device)
    dtype = getattr(torch, options.precision)
    flops = count_flops(_both_passes(make_model(options).to(device), batch))
    limit = matrix_flops_per_second(device, dtype, 8192 if on_gpu else 2048)

    sides: dict[str, Callable[[], None]] = {
        "PyTorch": plain_step(make_model(options).to(device), batch, dtype)
    }
    if importlib.util.find_spec("deepspeed") is not None:
        sides["engine"] = engine_step(make_model(options), batch, options.precision)

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, step in sides.items():
            seconds[name].append(timed(step, options.steps) / options.steps)

    report(
        options, flops, limit, {name: statistics.median(times) for name, times in seconds.items()}
    )


def make_model(options: argparse.Namespace) -> RecognitionModel:
    """Build a recognizer of the chosen size, with random weights."""
    depth = {} if options.layers is None else {"num_hidden_layers": options.layers}
    encoder = HubertConfig(
        **(SIZES[options.size] | depth), feat_extract_norm="layer", conv_bias=True
    )
    torch.manual_seed(0)

    term_weights, personal = {"supervised": 1.0}, dict[str, Any]()
    if options.recipe == "setpeer":
        term_weights |= {"nce": 1.0, "vq": 0.1}
        personal = {"fusion": "prefix", "extractor": {"num_prefixes": 4, "num_codes": 512}}
    values = RecognizerConfig(encoder=encoder.to_dict(), names=EMOTIONS, normalise=True, **personal)

    model = RecognitionModel(
        EmotionRecognizer(values),
        ClassTarget(EMOTIONS),
        term_weights=term_weights,
        class_weights=None,
        row_weights=None,
        numbers={},
    )
    model.recognizer.encoder.freeze(front_end=True, num_layers=0)  # as fine-tuning does
    return model.train()


def make_batch(number: int, seconds: float) -> Batch:
    """Make a batch of noise of one length, in sets of eight."""
    torch.manual_seed(1)
    samples = round(seconds * SAMPLE_RATE_HZ)
    labels = torch.arange(number) % len(EMOTIONS)

    return Batch(
        inputs={
            "sound": Padded(0.1 * torch.randn(number, samples), torch.full((number,), samples))
        },
        targets={"classes": torch.nn.functional.one_hot(labels, len(EMOTIONS)).float()},
        sets=torch.arange(number) // SET_SIZE,
        rows=torch.arange(number),
        speakers=[str(row // SET_SIZE) for row in range(number)],
        number=0,
    )


def _both_passes(model: RecognitionModel, batch: Batch) -> Callable[[], object]:
    """One forward and backward pass of the model."""
    return lambda: model(batch)["loss"].backward()


def count_flops(step: Callable[[], object]) -> int:
    """Count the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def matrix_flops_per_second(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Measure what the device reaches on a square matrix product."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    times = [timed(lambda: left @ right, 5) / 5 for _ in range(5)]
    return float(2 * size**3 / statistics.median(times))


def plain_step(model: RecognitionModel, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """Build the step in PyTorch alone: forward, backward, clip and AdamW."""
    model.to(dtype)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    steps = itertools.count()

    def step() -> None:
        model(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(next(steps))

    return step


def engine_step(model: RecognitionModel, batch: Batch, precision: Any) -> Callable[[], None]:
    """Build the same step with DeepSpeed, as the training engine sets it up."""
    import deepspeed

    join_group()
    config = deepspeed_config(EngineConfig(precision=precision), 1, universal=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )

    steps = itertools.count()

    def step() -> None:
        terms = engine(batch)
        engine.backward(terms["loss"])
        engine.step()
        model.after_step(next(steps))

    return step


def timed(step: Callable[[], Any], number: int) -> float:
    """Measure the seconds of `number` calls; this waits for the GPU before and after."""
    on_gpu = torch.cuda.is_available()
    step()
    if on_gpu:
        torch.cuda.synchronize()

    started = time.perf_counter()
    for _ in range(number):
        step()

    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def report(
    options: argparse.Namespace, flops: int, limit: float, seconds: dict[str, float]
) -> None:
    """Print the table and the line of JSON."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    depth = "all" if options.layers is None else options.layers

    sys.stdout.write(
        f"{machine()}; {device}; HuBERT {options.size}, {depth} layers, {options.recipe}, "
        f"{options.utterances} x {options.seconds:g} s, {options.precision}: {flops / 1e9:.0f} "
        f"GFLOP a step; the limit, a matrix product, reaches {limit / 1e12:.2f} TFLOP/s\n"
    )

    utilization = {name: flops / time_ / limit for name, time_ in seconds.items()}
    for name, time_ in seconds.items():
        share = options.utterances / time_
        sys.stdout.write(
            f"  {name:8s} {share:8.1f} utterances a second  utilization {utilization[name]:.1%}\n"
        )

    if "engine" in seconds:
        sys.stdout.write(
            f"  the engine runs at {seconds['PyTorch'] / seconds['engine']:.2f} of PyTorch alone\n"
        )
    else:
        sys.stdout.write("  deepspeed is not installed here: the engine was not measured\n")

    figures: dict[str, Any] = {
        "device": device,
        "size": options.size,
        "layers": options.layers,
        "flops": flops,
    }
    if torch.cuda.is_available():
        figures["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
    print_result(
        "training_gpu",
        figures | {"limit_flops": limit, "seconds": seconds, "utilization": utilization},
    )


if __name__ == "__main__":
    main()

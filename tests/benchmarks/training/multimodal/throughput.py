"""Measures stage 1's training step against the encoder alone, without Ray or DeepSpeed.

    python -m tests.benchmarks.training.multimodal.throughput [--device cuda] [--seconds S] ...

The encoder has the size of HuBERT base, with random weights and its convolutions frozen, as in the
paper; the step teaches it O1 (25 values), O2 (3 classes) and O3 (1,408 values). The encoder alone
is the same without heads: its pooled frames are drawn to 0. Both take turns in one run, so that
their ratio is what the objectives cost. Utilization is the floating-point operations of the step,
counted by `torch.utils.flop_counter`, over those of a large matrix product in the same precision,
which is measured in the same run. On a CPU a small encoder runs through the same code.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from shards.loading.loader import Batch, Padded
from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.benchmarks.measuring import MIB, machine, print_result
from tests.benchmarks.training.checkpoints import SIZES
from tests.benchmarks.training.training_gpu import count_flops, matrix_flops_per_second, timed
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.pooling import masked_mean
from trainers.recipes.multimodal.config import MultimodalConfig
from trainers.recipes.multimodal.model import MultimodalModel

WIDTHS = {"acoustics": 25, "sentiment": 3, "face_embedding": 1408}
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
Loss = Callable[[], Tensor]


def main() -> None:
    options = _parser().parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    torch.manual_seed(0)
    batch = _make_batch(options.utterances, options.seconds).to(device)

    model = MultimodalModel(_make_encoder(options.size), MultimodalConfig(), WIDTHS)
    model.to(device, dtype).train()
    alone = _make_encoder(options.size).to(device, dtype).train()
    sides = {
        "step": _step(model, lambda: model(batch)["loss"]),
        "encoder alone": _step(alone, lambda: _pooled(alone, batch).square().mean()),
    }
    flops = {name: count_flops(step) for name, step in sides.items()}
    limit = matrix_flops_per_second(device, dtype, 8192 if device.type == "cuda" else 1024)

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, step in sides.items():
            seconds[name].append(timed(step, options.steps) / options.steps)
    _report(options, flops, limit, {name: statistics.median(s) for name, s in seconds.items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, on_gpu = parser.add_argument, torch.cuda.is_available()
    add("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    add("--size", choices=["base", "small"], default="base" if on_gpu else "small")
    add("--precision", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    add("--utterances", type=int, default=32, help="utterances in a step (32, as in the paper)")
    add("--seconds", type=float, default=10.0 if on_gpu else 1.0, help="seconds of each")
    add("--steps", type=int, default=20 if on_gpu else 2, help="steps in a round")
    add("--repeats", type=int, default=5, help="rounds; medians are given")
    return parser


def _make_encoder(size: str) -> LayerwiseEncoder:
    """HuBERT with random weights and frozen convolutions."""
    sizes = SIZES["base"] if size == "base" else SMALL
    encoder = LayerwiseEncoder(HubertModel(HubertConfig(**sizes)))
    encoder.freeze(front_end=True, num_layers=0)
    return encoder


def _make_batch(number: int, seconds: float) -> Batch:
    """Noise of one length with random targets, all of them known."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    sound = Padded(0.1 * torch.randn(number, samples), torch.full((number,), samples))
    classes = torch.arange(number) % WIDTHS["sentiment"]
    targets = {name: torch.randn(number, width) for name, width in WIDTHS.items()}
    targets["sentiment"] = nn.functional.one_hot(classes, WIDTHS["sentiment"]).float()

    return Batch(
        inputs={"sound": sound},
        targets=targets,
        sets=torch.arange(number),
        rows=torch.arange(number),
        speakers=["0"] * number,
        number=0,
    )


def _pooled(encoder: LayerwiseEncoder, batch: Batch) -> Tensor:
    """The mean [N, D] of the last layer's frames."""
    sound = batch.inputs["sound"]
    frames_NTD, mask_NT = encoder(sound.values, sound.lengths)
    return masked_mean(frames_NTD, mask_NT).float()


def _step(model: nn.Module, loss: Loss) -> Callable[[], None]:
    """A whole step: forward, backward, clipping and Adam."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _report(
    options: argparse.Namespace, flops: dict[str, int], limit: float, seconds: dict[str, float]
) -> None:
    heard = options.utterances * options.seconds
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    sys.stdout.write(
        f"{machine()}; {device}, {options.size}, {options.precision}, {heard:g} s of sound a step; "
        f"a matrix product reaches {limit / 1e12:.3f} TFLOP/s\n"
    )
    utilization = {name: flops[name] / time_ / limit for name, time_ in seconds.items()}
    for name, time_ in seconds.items():
        sys.stdout.write(
            f"  {name:14s} {heard / time_:8.1f} audio-hours an hour, {flops[name] / 1e9:.1f} GFLOP "
            f"a step, utilization {utilization[name]:.1%}\n"
        )
    ratio = seconds["step"] / seconds["encoder alone"]
    sys.stdout.write(f"  with O1, O2 and O3 a step takes {ratio:.3f} of the encoder alone\n")
    if loaded := sorted({"ray", "deepspeed"} & sys.modules.keys()):
        raise RuntimeError(f"loaded {', '.join(loaded)}, expected a measurement of torch alone")

    figures: dict[str, object] = {
        "device": device,
        "size": options.size,
        "flops": flops,
        "limit_flops": limit,
        "seconds": seconds,
        "utilization": utilization,
        "ratio": ratio,
    }
    if options.device == "cuda":
        figures["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
    print_result("multimodal_throughput", figures)


if __name__ == "__main__":
    main()

"""Measures the training step of emotion2vec against a plain loop, without Ray or DeepSpeed.

    python -m tests.benchmarks.training.pretraining_throughput [--device cuda] [--seconds S] ...

The step hears an utterance once in the front end and once in the teacher, for all clones. The plain
loop makes one pass of everything for each clone, and adds the gradients up. Both take turns in one
run; each has an optimizer step and a teacher that follows. Utilization is the floating-point
operations of the step, counted by `torch.utils.flop_counter`, over those of a large matrix product
in the same precision, which is measured in the same run. The default size on a GPU is the
published one; on a CPU a small one runs through the same code.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.media.sound_format import SAMPLE_RATE_HZ
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.training_gpu import count_flops, matrix_flops_per_second, timed
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.decoders import make_decoder
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder
from trainers.recipes.emotion2vec.config import Emotion2vecConfig
from trainers.recipes.emotion2vec.masks import exact_span_masks
from trainers.recipes.emotion2vec.model import Emotion2vecModel, Predictions

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_prenet_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_size": 64,
    "decoder_size": 32,
}


def main() -> None:
    options = _parser().parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {} if options.size == "base" else SMALL
    encoder = Data2VecEncoder(Data2VecConfig(**sizes))
    config = Emotion2vecConfig(clones=options.clones, guard_after=10**9)
    model = Emotion2vecModel(encoder, make_decoder(encoder.config), config).to(device, dtype)

    samples_NS, hide_NMT = _draw(model, config, options, device)
    model.train()
    samples_NS = samples_NS.to(dtype)
    sides = {
        "step": _step(model, samples_NS, [hide_NMT]),
        "plain loop": _step(model, samples_NS, list(torch.chunk(hide_NMT, options.clones, dim=1))),
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
    add("--utterances", type=int, default=64 if on_gpu else 4, help="utterances in a step")
    add("--seconds", type=float, default=15.0 if on_gpu else 2.0, help="seconds of each")
    add("--clones", type=int, default=8 if on_gpu else 4, help="clones of each utterance")
    add("--steps", type=int, default=10 if on_gpu else 2, help="steps in a round")
    add("--repeats", type=int, default=5, help="rounds; medians are given")
    return parser


def _draw(
    model: Emotion2vecModel,
    config: Emotion2vecConfig,
    options: argparse.Namespace,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Noise [N, S], and the frames [N, M, T] to hide."""
    samples = round(options.seconds * SAMPLE_RATE_HZ)
    num_frames = int(model.encoder.front_end.num_frames(torch.tensor(samples)))
    masks = exact_span_masks(
        options.utterances * options.clones,
        num_frames,
        share=config.mask_share,
        adjust=config.mask_adjust,
        span_length=config.mask_length,
        rng=np.random.default_rng(0),
    )
    hide_NMT = torch.from_numpy(masks).view(options.utterances, options.clones, num_frames)
    return torch.randn(options.utterances, samples, device=device), hide_NMT.to(device)


def _step(
    model: Emotion2vecModel, samples_NS: Tensor, passes: list[Tensor]
) -> Callable[[], object]:
    """A step that makes one pass for each mask in `passes` and adds the gradients up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        for hide_NMT in passes:
            (_loss(model.predict(samples_NS, hide_NMT)) / len(passes)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        model.teacher.follow(model.encoder.body, 0.999)

    return step


def _loss(found: Predictions) -> Tensor:
    terms = [found.frame_errors_NM, found.utterance_errors_NM]
    return torch.stack([term.mean() for term in terms if term is not None]).sum()


def _report(
    options: argparse.Namespace, flops: dict[str, int], limit: float, seconds: dict[str, float]
) -> None:
    heard = options.utterances * options.seconds
    sys.stdout.write(
        f"{machine()}; {options.device}, {options.size}, {options.precision}, {heard:g} s of sound "
        f"a step, {options.clones} clones; a matrix product reaches {limit / 1e12:.3f} TFLOP/s\n"
    )
    for name, time_ in seconds.items():
        sys.stdout.write(
            f"  {name:10s} {heard / time_:8.1f} audio-hours an hour, {flops[name] / 1e9:.1f} GFLOP "
            f"a step, utilization {flops[name] / time_ / limit:.1%}\n"
        )
    ratio = seconds["plain loop"] / seconds["step"]
    sys.stdout.write(f"  the step is {ratio:.2f} times as fast as the plain loop\n")
    if loaded := sorted({"ray", "deepspeed"} & sys.modules.keys()):
        raise RuntimeError(f"loaded {', '.join(loaded)}, expected a measurement of torch alone")
    print_result(
        "pretraining_throughput",
        {"device": options.device, "flops": flops, "limit_flops": limit, "seconds": seconds},
    )


if __name__ == "__main__":
    main()

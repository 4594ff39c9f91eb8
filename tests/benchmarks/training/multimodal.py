"""What targets beside the labels teach a speech encoder: O1, O2 and O3, by frozen probes.

A small encoder is adapted to a pool of unlabeled speakers by acoustic descriptors (O1), sentiment
(O2) and faces (O3), and probed on other speakers, with some or all labels. It is compared with the
same encoder before any training, with O1's weaker first try (energy), and with targets permuted
over the utterances, which may teach no more than what speech is like. In the worlds where face and
words tell nothing, O2 and O3 cannot help; where no channel tells anything, nothing can.

Each cell (world, seed, method, number of labels) is a file in `--keep`; cells that are there are
not computed again. Figures are accuracies in percent, pooled over four folds of whole speakers; p
is of a paired t-test over the seeds.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.jobs.features import FeaturesConfig, make_features
from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.storage.documents import read_json, write_json
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.multimodal_worlds import make_world, world_config
from trainers.config import TrainConfig
from trainers.evaluation.comparison import Cell, compare
from trainers.models.personal.adapted_encoder import save_encoder
from trainers.probing.config import SPECTRAL, ProbeConfig
from trainers.probing.probing import probe
from trainers.recipes.multimodal.task import MultimodalTask
from trainers.training import make_task, run_training

WORLDS = ("default", "independent-face-and-words", "independent")
BEFORE, STATISTICS = "before training", "spectral statistics"
# Weights of O1, O2 and O3, which targets, and other options.
METHODS: dict[str, tuple[tuple[float, float, float], str, dict[str, Any]]] = {
    BEFORE: ((1, 0.5, 1), "targets", {}),
    STATISTICS: ((1, 0.5, 1), "targets", {}),  # of the sound, without any encoder
    "energy": ((1, 0, 0), "targets", {"acoustics": "energy"}),
    "O1": ((1, 0, 0), "targets", {}),
    "O1+O2": ((1, 0.5, 0), "targets", {}),
    "O1+O2+O3": ((1, 0.5, 1), "targets", {}),
    "O1+O2+O3, sums": ((1, 0.5, 1), "targets", {"mse": "sum"}),
    "O1+O2+O3, permuted": ((1, 0.5, 1), "permuted", {}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where cells are kept, and how long a run is."""

    folder: Path
    steps: int
    probe_epochs: int
    sizes: tuple[int | None, ...]  # numbers of labels; None: all


def main() -> int:
    options = _options()
    bench = Bench(
        folder=Path(options.keep),
        steps=options.steps,
        probe_epochs=options.probe_epochs,
        sizes=(*options.labels, None),
    )

    runs: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    for seed in range(options.seeds):
        for kind in options.worlds:
            world = bench.folder / f"{kind}-{seed}"
            make_world(world, world_config(kind, seed), world_config("default", seed))
            for method in options.methods:
                figures = dict(_measured(bench, world, method, seed))
                runs.setdefault(kind, {}).setdefault(method, {})[seed] = figures
                _print(bench, kind, runs[kind])

    print_result("training.multimodal", {"steps": bench.steps, "accuracy": runs})
    return 0


def _measured(bench: Bench, world: Path, method: str, seed: int) -> Iterator[tuple[str, float]]:
    """The accuracy by the number of labels."""
    for size in bench.sizes:
        name = f"{method}-{bench.steps}-{bench.probe_epochs}-{size}.json"
        path = world / "cells" / name.replace(" ", "-")
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_json(str(path), {"accuracy": _probed(bench, world, method, seed, size)})

        yield ("all" if size is None else str(size)), read_json(path)["accuracy"]


def _probed(bench: Bench, world: Path, method: str, seed: int, size: int | None) -> float:
    """The accuracy in percent of a probe on what a method makes of the labeled speakers' sound."""
    encoder = SPECTRAL if method == STATISTICS else str(_adapted(bench, world, method, seed))
    shards, features = str(world / "labeled" / "*.tar"), str(world / "features" / method)
    make_features(FeaturesConfig(shards=shards, encoder=encoder, out=features, num_readers=1))

    config = ProbeConfig(
        shards=shards,
        out=str(world / "probe"),
        features=features,
        input="statistics" if method == STATISTICS else "frames",
        folds="speaker:4",
        num_utterances=size,
        subset_seed=(0,) if size is None else (0, 1, 2),
        num_epochs=bench.probe_epochs,
    )
    return 100 * float(probe(config).document["figures"]["pooled"]["accuracy"]["value"])


def _adapted(bench: Bench, world: Path, method: str, seed: int) -> Path:
    """The folder of the encoder that a method makes, before or after training."""
    weights, targets, options = METHODS[method]
    out = world / "runs" / f"{method}-{bench.steps}"
    names = ("acoustics_weight", "sentiment_weight", "face_weight")
    config = from_mapping(
        TrainConfig,
        {
            "recipe": "multimodal",
            "shards": str(world / "pool" / "*.tar"),
            "targets": str(world / targets),
            "out": str(out),
            "resume": out.exists(),
            "encoder": {"hidden_size": 64, "num_layers": 4},
            "data": {"utterances": {"batch_seconds": 60.0, "max_utterances": 32}},
            "engine": {
                "num_steps": bench.steps,
                "validate_every": max(1, bench.steps // 5),
                "checkpoint_every": bench.steps,
                "seed": seed,
            },
            "model": {**dict(zip(names, weights, strict=True)), **options},
        },
    )

    if method == BEFORE:
        task = make_task(config, read_index(config.shards))
        if not isinstance(task, MultimodalTask):
            raise TypeError(f"got {type(task).__name__}, expected the task of multimodal")
        save_encoder(task.build_model().encoder, out / "best")
    elif not (out / "train.json").exists():
        run_training(config)

    return out / "best"


def _print(bench: Bench, kind: str, runs: dict[str, dict[int, dict[str, float]]]) -> None:
    sizes = ["all" if size is None else str(size) for size in bench.sizes]
    table = compare(runs, BEFORE, sizes)
    sys.stdout.write(f"\nworld {kind}, {machine()}, {bench.steps} steps\n")

    for method, cells in table.items():
        shown = "  ".join(_shown(cells[size]) for size in sizes)
        sys.stdout.write(f"  {method:22s} {len(runs[method])} seeds  {shown}\n")
    sys.stdout.flush()


def _shown(cell: Cell) -> str:
    return f"{cell.mean:5.1f}" + ("" if cell.p is None else f" p {cell.p:.3f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", required=True, help="folder of worlds, runs and cells")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--labels", type=int, nargs="*", default=[100, 300])
    parser.add_argument("--probe-epochs", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

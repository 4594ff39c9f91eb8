"""Loss curves of every recipe, kept so that a refactoring can be compared with them.

    python -m tests.trainers.golden_curves          # compare this tree with the kept curves
    python -m tests.trainers.golden_curves --write  # keep this tree's, and the machine's name

A curve is every number a run logs over 30 steps, and its validation figures. Rounding differs
between processors and releases of torch, so the comparison is bit for bit on the machine that the
curves were made on, and to a thousandth elsewhere.
"""

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import HubertConfig, HubertModel

from shards.config_values import from_mapping
from tests.worlds.training import (
    small_values,
    video_values,
    write_training_world,
    write_video_world,
)
from trainers.config import TrainConfig
from trainers.training import run_training

KEPT = Path(__file__).with_suffix(".json")
NUM_STEPS = 30
TOLERANCE = 1e-3
MASKING = {
    "num_labels": 8,
    "mask_length": 2,
    "mask_probability": 0.6,
    "min_samples": 1600,
    "projection_size": 8,
}
TIMED = {"utterances_per_second", "data_wait_share"}

Curve = list[dict[str, float]]


def machine() -> dict[str, str]:
    """The properties of this machine on which the last bits of a sum depend."""
    told = [line for line in _cpu_info() if line.startswith(("model name", "flags"))][:2]
    return {
        "processor": hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
        if told
        else platform.processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def runs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every run by name with its options; some runs start from what others exported."""
    shards, films = write_training_world(folder / "packed"), write_video_world(folder / "films")
    hubert = _hubert(folder / "hubert")

    def values(
        name: str, recipe: str, checkpoint: Path | None = None, **model: Any
    ) -> tuple[str, dict[str, Any]]:
        found = small_values(shards, folder / name, recipe)
        found["engine"] |= {
            "num_steps": NUM_STEPS,
            "validate_every": 10,
            "checkpoint_every": NUM_STEPS,
        }
        found["encoder"] |= {"checkpoint": None if checkpoint is None else str(checkpoint)}
        found["model"] = (found.get("model", {}) if recipe == "setpeer" else {}) | model
        return name, found

    yield values("finetune", "finetune", class_weights="balanced")
    yield values(
        "setpeer", "setpeer", normalize_codes=True, restart_codes=True, similarity="cosine"
    )
    yield values("weighting", "weighting", neighbors=2)
    yield values("tapt", "tapt", **MASKING)
    yield values("papt", "papt", folder / "tapt" / "best", label_layer=1, **MASKING)
    yield values("papt-finetune", "finetune", folder / "papt" / "best", head="interpreter")
    yield values("hubert", "setpeer", hubert, fusion="cross_attention")

    name, found = values("values", "finetune", head="interpreter")
    found["data"]["target"] = {"kind": "values", "values": ["arousal"]}
    yield name, found

    name, found = values("face", "setpeer", fusion="addition", num_prefixes=1)
    found["data"]["modality"] = "face"
    yield name, found

    engine = {"num_steps": 6, "validate_every": 3, "checkpoint_every": 6}
    yield "video", video_values(films, folder / "video", **engine)


def curve_of(values: Mapping[str, Any]) -> Curve:
    """Run a recipe, and read what was logged."""
    run_training(from_mapping(TrainConfig, values))
    lines = (Path(values["out"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: number for name, number in json.loads(line).items() if name not in TIMED}
        for line in lines
    ]


def differences(found: Curve, kept: Curve, *, exact: bool) -> list[str]:
    """Say what differs, a line each; the list is empty when the curves are equal."""
    if [list(line) for line in found] != [list(line) for line in kept]:
        return ["other steps or other numbers were logged"]

    told = []
    for mine, theirs in zip(found, kept, strict=True):
        for name, number in mine.items():
            limit = 0.0 if exact else TOLERANCE * max(1.0, abs(theirs[name]))
            if not abs(number - theirs[name]) <= limit:
                told.append(f"step {mine['step']}: {name} {number!r}, kept {theirs[name]!r}")

    return told


def main() -> int:
    """Compare the curves or keep them; the exit status is 1 when a curve differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: curve_of(values) for name, values in runs(Path(folder))}

    if write:
        KEPT.write_text(
            json.dumps({"machine": machine(), "curves": found}, indent=1) + "\n", encoding="utf-8"
        )
        return 0

    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    exact, status = kept["machine"] == machine(), 0

    for name, curve in found.items():
        told = differences(curve, kept["curves"][name], exact=exact)
        sys.stdout.write(
            f"{name}: {'; '.join(told[:3]) or ('equal, bit for bit' if exact else 'equal')}\n"
        )
        status |= bool(told)

    return status


def _hubert(folder: Path) -> Path:
    """Save a tiny encoder whose convolutions use group norm."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    convolutions = {
        "conv_dim": (8, 8),
        "conv_kernel": (10, 8),
        "conv_stride": (8, 4),
        "num_feat_extract_layers": 2,
    }

    HubertModel(HubertConfig(num_conv_pos_embeddings=8, **sizes, **convolutions)).save_pretrained(
        folder
    )
    return folder


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())

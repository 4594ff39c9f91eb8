"""SetPeER through the engine restarts codes on any number of workers and starts from other runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

from shards.config import ConfigError
from shards.config_values import from_mapping
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.models.personal import vector_quantizer
from trainers.models.personal.vector_quantizer import RESTART_AFTER_STEPS, VectorQuantizer
from trainers.models.recognizer import EmotionRecognizer
from trainers.training import run_training


def restart_codes(rank: int, size: int, folder: Path) -> torch.Tensor:
    """Return the codebook after some steps of two batches each, and save it in `folder`.

    This rank sees its share of the batches.
    """
    if size > 1:
        store = distributed.FileStore(str(folder / "store"), size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)

    torch.manual_seed(0)
    quantizer = VectorQuantizer(12, 3, restart=True).train()

    for _ in range(RESTART_AFTER_STEPS + 4):
        batches = [torch.randn(5, 3), torch.randn(4, 3)]
        for vectors in batches[rank::size]:
            quantizer(vectors)
        quantizer.after_step()

    torch.save(quantizer.entries.detach(), folder / f"{rank}-of-{size}.pt")
    if size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return quantizer.entries.detach()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def values_of(shards: str, out: Path, **engine: Any) -> dict[str, Any]:
    return small_values(
        shards, out, **({"num_steps": 10, "validate_every": 10, "checkpoint_every": 10} | engine)
    )


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_ranks_restart_the_same_codes(tmp_path: Path) -> None:
    """Two processes, each with half of the vectors, end with the codebook of one process."""
    alone = restart_codes(0, 1, tmp_path)
    torch.multiprocessing.spawn(restart_codes, args=(2, tmp_path), nprocs=2)
    assert all(torch.equal(torch.load(tmp_path / f"{rank}-of-2.pt"), alone) for rank in range(2))


def test_the_optimizers_copy_does_not_undo_a_restart(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve with restarts under ZeRO is that without, though ZeRO keeps weights elsewhere."""
    monkeypatch.setattr(vector_quantizer, "RESTART_AFTER_STEPS", 2)

    curves = []
    for stage in (0, 1, 3):
        values = values_of(shards, tmp_path / str(stage), zero_stage=stage)
        values["model"] |= {"restart_codes": True, "normalize_codes": True}
        run_training(from_mapping(TrainConfig, values))
        curves.append(losses(tmp_path / str(stage)))

    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert curves[2] == pytest.approx(curves[0], rel=1e-4)

    model = EmotionRecognizer.from_pretrained(tmp_path / "3" / "last")
    assert model.extractor is not None
    assert model.extractor.quantizer is not None
    assert model.extractor.quantizer.offset.any()


@pytest.mark.parametrize(
    "options", [{"fusion": "addition", "num_prefixes": 1}, {"quantized": False}]
)
def test_bfloat16_runs_through_the_engine(
    shards: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    """A bfloat16 run with the interpreter head and without L_NCE exports float32."""
    values = values_of(shards, tmp_path / "run", precision="bfloat16", zero_stage=1)
    values["model"] |= {"head": "interpreter", "contrastive_weight": 0.0} | options
    run_training(from_mapping(TrainConfig, values))
    exported = EmotionRecognizer.from_pretrained(tmp_path / "run" / "best").state_dict()
    assert {value.dtype for value in exported.values() if value.is_floating_point()} == {
        torch.float32
    }


def test_speakers_of_one_utterance_train(shards: str, tmp_path: Path) -> None:
    """Sets of one have no halves, and the run trains without that term."""
    values = values_of(shards, tmp_path / "run")
    values["data"]["sets"] = {"num_sets": 3, "set_size": 1}
    assert run_training(from_mapping(TrainConfig, values)).steps == 10


def test_a_run_starts_from_another(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SetPeER takes P and its head from SetPeER, and encoder and head from the vanilla baseline."""
    for recipe, taken in (("setpeer", "encoder, extractor, head"), ("finetune", "encoder, head")):
        first = tmp_path / recipe
        values = (
            values_of(shards, first) if recipe == "setpeer" else small_values(shards, first, recipe)
        )
        run_training(from_mapping(TrainConfig, values))

        second = values_of(shards, tmp_path / f"from-{recipe}")
        second["encoder"] |= {"checkpoint": str(first / "best")}

        with caplog.at_level("INFO"):
            assert run_training(from_mapping(TrainConfig, second)).steps == 10
        assert f"taken over from the checkpoint: {taken}" in caplog.text
        assert losses(tmp_path / f"from-{recipe}")[0] < losses(first)[0]


def test_a_run_that_would_lose_p_is_refused(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another commitment keeps P; without sets P would be lost, which must be allowed."""
    first = values_of(shards, tmp_path / "first")
    run_training(from_mapping(TrainConfig, first))
    checkpoint = {"checkpoint": str(tmp_path / "first" / "best")}

    again = values_of(shards, tmp_path / "again")
    again["encoder"] |= checkpoint
    again["model"] |= {"commitment": 0.9}
    with caplog.at_level("INFO"):
        run_training(from_mapping(TrainConfig, again))
    assert "taken over from the checkpoint: encoder, extractor, head" in caplog.text

    plain = small_values(shards, tmp_path / "plain", "finetune")
    plain["encoder"] |= checkpoint
    with pytest.raises(ConfigError, match=r"would be lost: extractor\.layer_embedding\.weight"):
        run_training(from_mapping(TrainConfig, plain))

    run_training(from_mapping(TrainConfig, plain | {"allow_partial_start": True}))
    assert "tensors are not taken over: extractor.layer_embedding.weight" in caplog.text

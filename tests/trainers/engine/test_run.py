"""The engine draws the same curve whether killed, resumed, or shared among workers.

Its checkpoints are whole, and its ends are clear.
"""

import json
import math
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import HubertConfig, HubertModel

import trainers.engine.run as engine_module
from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.loading.loader import Batch, BatchReader
from tests.trainers.engine.processes import die, finish, losses, start
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance, small_config, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.checkpoints import RESULT_NAME, CheckpointFolder
from trainers.engine.run import TrainingResult
from trainers.models.parts.layers import EncoderLayer
from trainers.models.recognizer import EmotionRecognizer
from trainers.task import TrainingModel
from trainers.training import make_task, run_training


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def undisturbed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_training(small_config(shards, out, batches_per_step=2))
    return out


def read_result(out: Path) -> TrainingResult:
    """Read what the finished run in `out` reached."""
    return TrainingResult(**json.loads((out / RESULT_NAME).read_text(encoding="utf-8")))


def test_a_run_leaves_a_model_and_its_numbers(undisturbed: Path) -> None:
    """The best model loads, every step is a line, and the result says what was reached."""
    assert sorted(losses(undisturbed)) == list(range(1, 13))
    assert all(math.isfinite(loss) for loss in losses(undisturbed).values())

    result = read_result(undisturbed)
    assert (result.steps, result.stopped_early) == (12, False)

    validated = losses(undisturbed, "validation_macro_f1")
    assert sorted(validated) == [6, 12]
    assert result.best["macro_f1"] == max(validated.values())

    model = EmotionRecognizer.from_pretrained(undisturbed / "best")
    assert model.config.names == ["neutral", "anger", "happiness"]
    assert list((undisturbed / "tensorboard").glob("events.*"))


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    shards: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A run resumed after SIGKILL and beside a half-written checkpoint draws the same curve.

    It equals the undisturbed curve exactly.
    """
    out = tmp_path / "killed"
    values = small_values(shards, out, batches_per_step=2)
    process = start(values, tmp_path)

    deadline = time.monotonic() + 100
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 6:
        assert process.poll() is None, process.communicate()[0].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    half = out / "checkpoints" / ".step-00000099.tmp"
    half.mkdir()
    (half / "progress.json").write_text("{}")

    run_training(replace(from_mapping(TrainConfig, values), resume=True))

    assert losses(out) == losses(undisturbed)
    assert losses(out, "validation_macro_f1") == losses(undisturbed, "validation_macro_f1")
    assert not half.exists()


@pytest.mark.parametrize("place", ["state", "rename"])
def test_a_half_saved_checkpoint_is_never_loaded(
    shards: str, undisturbed: Path, tmp_path: Path, place: str
) -> None:
    """After SIGKILL during the save of step 8, the run resumes from step 6 on the same curve.

    Step 6 is the checkpoint before.
    """
    out = tmp_path / "killed"
    values = small_values(shards, out, batches_per_step=2)

    die(start(values, tmp_path, dying_at=f"{place} 8"))

    half = out / "checkpoints" / ".step-00000008.tmp"
    assert any(half.rglob("*.pt"))

    newest = CheckpointFolder(out / "checkpoints").newest()
    assert newest is not None
    # Validation was better at step 6.
    assert newest.name == "step-00000006"

    run_training(replace(from_mapping(TrainConfig, values), resume=True))
    assert losses(out) == losses(undisturbed)
    assert not half.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "first", "then"), [(1, 2, 1), (2, 1, 2), (3, 2, 1)])
def test_another_number_of_workers_goes_on(
    shards: str, undisturbed: Path, tmp_path: Path, zero_stage: int, first: int, then: int
) -> None:
    """After SIGKILL at step 10, another number of workers resumes from step 8.

    The curve is that of one worker, up to float rounding.
    """
    out = tmp_path / "moved"
    engine: dict[str, Any] = {"batches_per_step": 2, "zero_stage": zero_stage}

    killed = start(small_values(shards, out, **engine), tmp_path, workers=first, dying_at="step 10")
    die(killed, workers=first)

    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000008",
    ]
    assert max(losses(out)) == 10

    finish(start(small_values(shards, out, **engine) | {"resume": True}, tmp_path, workers=then))
    assert losses(out) == pytest.approx(losses(undisturbed), rel=1e-3)


def test_the_best_model_is_that_of_the_last_checkpoint(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a resume, `best` is the step that the result names.

    The run was killed after a checkpoint and before its model was exported.
    """
    config = small_config(shards, tmp_path / "run", num_steps=6)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine_module.TrainingRun, "_export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_training(config)
    assert not (tmp_path / "run" / "best").exists()

    result = run_training(replace(config, resume=True))
    assert (result.steps, result.best_step) == (6, 6)

    best, last = (
        load_file(tmp_path / "run" / name / "model.safetensors") for name in ("best", "last")
    )
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_a_universal_checkpoint_brings_the_buffers_back(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run converted for another number of workers has the buffers of an undisturbed run.

    They are the buffers of batch norm and of the codebook.
    """
    model = {
        "head": "interpreter",
        "normalize_codes": True,
        "restart_codes": True,
        "code_width": 8,
        "num_codes": 16,
    }

    def run(name: str, num_steps: int, *, resume: bool = False) -> dict[str, torch.Tensor]:
        values = small_values(
            shards, tmp_path / name, num_steps=num_steps, zero_stage=1, schedule="constant"
        )
        values["engine"]["warmup_share"] = 0.0

        run_training(
            from_mapping(
                TrainConfig, values | {"model": model | {"num_prefixes": 2}, "resume": resume}
            )
        )

        return load_file(tmp_path / name / "last" / "model.safetensors")

    expected = run("undisturbed", 12)
    run("moved", 8)
    monkeypatch.setattr(engine_module.TrainingRun, "_must_convert", lambda *_: True)
    found = run("moved", 12, resume=True)

    changing = [
        name
        for name in expected
        if name.endswith(("running_mean", "running_var", "idle_steps", "offset"))
    ]
    assert len(changing) >= 4
    assert all(expected[name].abs().sum() > 0 for name in changing if "running" in name)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), name


def test_two_groups_of_parameters_go_on_with_another_number_of_workers(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ZeRO 3 each group keeps its own weight decay and counts its own steps.

    Half of the weights decay, and fast.
    """

    def spared(model: torch.nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()][::2]

    monkeypatch.setattr(TrainingModel, "spared_parameters", spared)

    def run(name: str, num_steps: int, *, resume: bool = False) -> dict[str, torch.Tensor]:
        engine = {"zero_stage": 3, "weight_decay": 20.0, "schedule": "constant"}
        values = small_values(
            shards, tmp_path / name, "finetune", num_steps=num_steps, warmup_share=0.0, **engine
        )
        run_training(from_mapping(TrainConfig, values | {"resume": resume}))
        return load_file(tmp_path / name / "last" / "model.safetensors")

    expected = run("undisturbed", 12)
    run("moved", 8)
    monkeypatch.setattr(engine_module.TrainingRun, "_must_convert", lambda *_: True)
    found = run("moved", 12, resume=True)

    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("recipe", "engine"), [("finetune", {"precision": "bfloat16"}), ("finetune", {"zero_stage": 3})]
)
def test_precisions_and_stages_train(
    shards: str, tmp_path: Path, recipe: str, engine: dict[str, Any]
) -> None:
    """Runs in bfloat16 and under ZeRO 3 export float32 models that load."""
    result = run_training(small_config(shards, tmp_path / "run", recipe, **engine))
    assert result.steps == 12
    model = EmotionRecognizer.from_pretrained(tmp_path / "run" / "best")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_group_norm_front_end_trains_under_zero_3(
    shards: str, tmp_path: Path, workers: int
) -> None:
    """The front end runs once for each length in a batch and gives the curve of ZeRO 0.

    Its convolutions are trained too.
    """
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
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
        tmp_path / "hubert"
    )

    curves = []
    for stage in (0, 3):
        folder = tmp_path / str(stage)
        folder.mkdir()
        values = small_values(
            shards, folder / "run", "finetune", zero_stage=stage, num_steps=4, batches_per_step=2
        )
        values["encoder"] = {"checkpoint": str(tmp_path / "hubert"), "freeze_front_end": False}

        if workers > 1 and stage == 3:
            finish(start(values, folder, workers=workers))
        else:
            run_training(from_mapping(TrainConfig, values))
        curves.append(losses(folder / "run"))

    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_values_are_learned_by_concordance(shards: str, tmp_path: Path) -> None:
    """Regression on numbers of the json, with PAPT's head, chooses the best model by CCC."""
    values = small_values(shards, tmp_path / "run", "finetune")
    values["data"]["target"] = {"kind": "values", "values": ["arousal"]}
    values["model"] = {"head": "interpreter"}

    result = run_training(from_mapping(TrainConfig, values))
    assert set(result.best) == {"ccc", "speaker_ccc"}


def test_a_loss_that_is_no_number_names_its_utterances(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step, the batch and its utterances."""
    read = BatchReader.__getitem__

    def spoilt(reader: BatchReader, item: tuple[int, Any]) -> Batch:
        batch = read(reader, item)
        sound = batch.inputs["sound"]
        spoilt = replace(sound, values=sound.values * (math.nan if item[0] == 3 else 1.0))
        return replace(batch, inputs={"sound": spoilt})

    monkeypatch.setattr(BatchReader, "__getitem__", spoilt)
    with pytest.raises(
        ConfigError, match=r"nan at step 2, in batch 3 \((train-\d-\d{3}, )*train-\d-\d{3}\)"
    ):
        run_training(small_config(shards, tmp_path / "run", "finetune", batches_per_step=2))


def test_epochs_take_the_place_of_steps(shards: str, tmp_path: Path) -> None:
    """Two epochs take as many steps as their batches make, and the rate falls until the last."""
    values = small_values(
        shards, tmp_path / "run", "finetune", num_epochs=2, batches_per_step=2, schedule="linear"
    )
    del values["engine"]["num_steps"]

    config = from_mapping(TrainConfig, values)
    plan = make_task(config, read_index(shards)).plan()
    num_batches = len(plan.epoch(0)) + len(plan.epoch(1))
    assert sum(len(batch.rows) for number in (0, 1) for batch in plan.epoch(number)) == 72

    assert run_training(config).steps == -(-num_batches // 2)
    rates, epochs = (losses(tmp_path / "run", name) for name in ("learning_rate", "epoch"))
    assert rates[max(rates)] == min(rates.values())
    assert epochs[max(epochs)] >= 2.0


@pytest.mark.parametrize(("recipe", "zero_stage"), [("setpeer", 0), ("finetune", 3)])
def test_computing_layers_again_changes_nothing(
    shards: str,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    zero_stage: int,
) -> None:
    """With checkpointed gradients every layer runs twice a batch, and the losses are the same.

    What stands before a layer runs once, and the losses are exactly equal.
    """
    calls: list[bool] = []
    forward = EncoderLayer.forward

    def counted(layer: EncoderLayer, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return forward(layer, hidden, mask)

    monkeypatch.setattr(EncoderLayer, "forward", counted)

    curves, in_training = [], []
    for name, checkpointing in (("kept", False), ("again", True)):
        options = {
            "gradient_checkpointing": checkpointing,
            "zero_stage": zero_stage,
            "num_steps": 6,
        }
        values = small_values(shards, tmp_path / name, recipe, **options)

        if recipe == "setpeer":
            values["model"] |= {"restart_codes": True, "normalize_codes": True}

        calls.clear()
        run_training(from_mapping(TrainConfig, values))

        curves.append(losses(tmp_path / name))
        in_training.append(sum(calls))

    assert curves[1] == curves[0]
    assert in_training == [6 * 2, 2 * 6 * 2]  # steps of one batch, layers


def test_patience_stops_early(shards: str, tmp_path: Path) -> None:
    """Without improvement for `patience` validations the run ends with a checkpoint."""
    config = small_config(
        shards,
        tmp_path / "run",
        "finetune",
        learning_rate=1e-12,
        num_steps=50,
        validate_every=2,
        patience=2,
    )

    result = run_training(config)
    assert result == TrainingResult(
        steps=6,
        best_step=2,
        best=result.best,
        stopped_early=True,
        padding_share=result.padding_share,
        corpus=result.corpus,
    )
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").exists()

    later = replace(config, engine=replace(config.engine, patience=3), resume=True)
    assert run_training(later).steps == 8  # more patience is one more validation


def test_an_encoder_of_something_else_is_refused(
    shards: str, undisturbed: Path, tmp_path: Path
) -> None:
    """An encoder of sound refuses faces, and more frozen layers than it has."""

    values = small_values(shards, tmp_path / "run", "finetune")
    values["data"]["modality"] = "face"
    values["encoder"] = {"checkpoint": str(undisturbed / "best")}
    with pytest.raises(
        ConfigError, match=r"got an encoder of audio, expected one of face, as data\.modality says"
    ):
        run_training(from_mapping(TrainConfig, values))

    values["data"]["modality"], values["encoder"]["freeze_layers"] = "audio", 3
    values["allow_partial_start"] = True  # the run was one of SetPeER
    with pytest.raises(ConfigError, match="freeze_layers: got 3, expected at most the encoder's 2"):
        run_training(from_mapping(TrainConfig, values))


def test_a_used_folder_is_not_overwritten(shards: str, undisturbed: Path, tmp_path: Path) -> None:
    """A second run, or a resume with other options or data, is refused and changes nothing."""
    before = (undisturbed / "config.yaml").read_text()

    with pytest.raises(ConfigError, match="add --resume to go on"):
        run_training(small_config(shards, undisturbed, batches_per_step=2))

    with pytest.raises(
        ConfigError, match=r"resume: engine\.seed: got 1, the run was started with 0"
    ):
        run_training(
            replace(small_config(shards, undisturbed, batches_per_step=2, seed=1), resume=True)
        )

    others = write_training_world(tmp_path)
    write_shard(
        tmp_path / "train-000000.tar",
        [make_utterance("train", s, n) for s in range(5) for n in range(6)],
    )

    with pytest.raises(ConfigError, match="not those the run was started with"):
        run_training(replace(small_config(others, undisturbed, batches_per_step=2), resume=True))
    assert (undisturbed / "config.yaml").read_text() == before


def test_a_checkpoint_that_lost_a_file_is_refused(
    shards: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A checkpoint with a damaged or missing file is refused, and the file is named.

    Without this checkpoint, the one before is used.
    """
    out = tmp_path / "damaged"
    shutil.copytree(undisturbed, out)

    state = next(path for path in (out / "checkpoints" / "step-00000012").rglob("*.pt"))
    state.write_bytes(state.read_bytes()[:-1])
    config = replace(small_config(shards, out, batches_per_step=2), resume=True)

    with pytest.raises(
        ConfigError, match=f"than when they were written: .*{state.name}; restore them"
    ):
        run_training(config)

    state.unlink()
    with pytest.raises(ConfigError, match=f"these files are missing .*{state.name}; restore them"):
        run_training(config)

    shutil.rmtree(out / "checkpoints" / "step-00000012")
    run_training(config)
    assert losses(out) == losses(undisturbed)

import copy
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from actors.inference import runtime as precision
from actors.inference.config import BatchingConfig
from actors.inference.runtime import Runtime, has_bfloat16, prepare_torch, settle
from tests.actors.inference.runtimes import cpu_runtime

INPUT = torch.linspace(-1, 1, 12).view(2, 6)


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with bfloat16, wherever the test runs."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def probe(model: Any) -> NDArray[np.float64]:
    with torch.inference_mode():
        return model(INPUT.to(model.weight.dtype)).double().numpy()


def measured_drift(model: nn.Linear) -> float:
    """How far bfloat16 moves an output, by hand: the rounded numbers' products, rounded again."""
    weight, bias, values = (
        tensor.detach().bfloat16().double().numpy() for tensor in (model.weight, model.bias, INPUT)
    )
    rounded = torch.from_numpy(values @ weight.T + bias).bfloat16().double().numpy()
    return float(np.abs(rounded - probe(model)).max())


def in_dtype(model: nn.Linear) -> precision.Loader:
    return lambda dtype: copy.deepcopy(model).to(dtype)


def never(dtype: torch.dtype) -> Any:
    raise AssertionError(f"loaded in {dtype} without need")


def test_float32_is_float32_and_nothing_is_measured(model: nn.Linear, hardware: None) -> None:
    """With float32 the model stays as it was loaded, and no second copy is loaded."""
    settled = settle("audio", cpu_runtime(precision="float32"), model, never, probe)
    assert settled.model is model
    assert (settled.precision, settled.drift) == ("float32", None)


def test_auto_is_float32_where_the_hardware_lacks_bfloat16(
    model: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated bfloat16, which is slower than float32, is not even tried."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    settled = settle("audio", cpu_runtime(precision="auto"), model, never, probe)
    assert (settled.model, settled.precision, settled.drift) == (model, "float32", None)


def test_auto_is_bfloat16_while_the_drift_is_within_the_bound(
    model: nn.Linear, hardware: None
) -> None:
    """The reported drift is the one computed by hand, and a bound just above it keeps bfloat16."""
    drift = measured_drift(model)

    settled = settle(
        "audio", cpu_runtime(precision="auto", max_drift=1.1 * drift), model, in_dtype(model), probe
    )

    assert settled.precision == "bfloat16"
    assert settled.model.weight.dtype == torch.bfloat16
    # The order of a dot product's additions may move the last rounding by one step of bfloat16,
    # which is 2 ** -8 of the value.
    assert settled.drift == pytest.approx(drift, abs=2**-8)


def test_auto_falls_back_when_the_drift_exceeds_the_bound(
    model: nn.Linear, hardware: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the bound float32 stays, and the drift is logged beside the bound."""
    with caplog.at_level(logging.INFO):
        settled = settle(
            "audio", cpu_runtime(precision="auto", max_drift=1e-7), model, in_dtype(model), probe
        )

    assert settled.model is model
    assert settled.precision == "float32"
    assert settled.drift is not None
    assert settled.drift > 1e-7
    assert "audio: runs in float32, as bfloat16 moves" in caplog.text


def test_auto_falls_back_when_bfloat16_is_not_a_number(model: nn.Linear, hardware: None) -> None:
    """NaN is never within the bound, so a model that overflows in bfloat16 stays in float32."""

    def broken(dtype: torch.dtype) -> nn.Linear:
        half = copy.deepcopy(model).to(dtype)
        half.bias.data.fill_(torch.nan)
        return half

    assert settle("audio", cpu_runtime(precision="auto"), model, broken, probe).model is model


def test_forced_bfloat16_is_kept_with_a_warning(
    model: nn.Linear, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A forced bfloat16 is used on any hardware and beyond the bound, with a warning."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)

    settled = settle(
        "audio", cpu_runtime(precision="bfloat16", max_drift=1e-7), model, in_dtype(model), probe
    )

    assert settled.precision == "bfloat16"
    assert settled.drift is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_processor_says_whether_it_has_bfloat16() -> None:
    """On Linux x86 the answer agrees with the kernel's list of instruction sets."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        pytest.skip("needs /proc/cpuinfo of an x86 processor")

    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bfloat16(torch.device("cpu")) == bool({"avx512_bf16", "amx_bf16"} & set(flags))


def test_a_cpu_takes_single_recordings_unless_the_panel_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The budgets are the defaults of a CPU or of a GPU, unless the panel gives its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default = Runtime.of("auto", 0.02, BatchingConfig())
    assert (
        default.device.type,
        default.audio_samples,
        default.text_tokens,
        default.face_frames,
    ) == ("cpu", 0, 512, 8)

    given = Runtime.of(
        "auto", 0.02, BatchingConfig(audio_seconds=2.5, text_tokens=7, face_frames=3)
    )
    assert (given.audio_samples, given.text_tokens, given.face_frames) == (40_000, 7, 3)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = Runtime.of("auto", 0.02, BatchingConfig())
    assert (gpu.device.type, gpu.audio_samples, gpu.face_frames) == ("cuda", 480 * 16_000, 256)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_torch_gets_its_share_of_threads_and_no_shortcuts(torch_settings: None) -> None:
    """Torch computes with the worker's threads, repeatably, and without TF32 on a GPU."""
    prepare_torch(3)

    assert torch.get_num_threads() == 3
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic

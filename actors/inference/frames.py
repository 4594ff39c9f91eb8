"""From face crops to model input, a bounded number of frames at a time.

There are two ways. The usual settings (resize, rescale, normalize) are applied here on the device:
the processors of transformers would take a millisecond for a frame in numpy and leave a GPU
waiting. Whatever else a processor does (cropping percentages, other offsets) is left to the
processor itself, in its PIL version, so that the result does not depend on whether torchvision
happens to be installed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoImageProcessor

from actors.inference.outcomes import Missing, run_batches
from actors.inference.waveforms import to_device
from shards.config import ConfigError

# PIL's numbers of the filters that torch has too. The processor does Lanczos and the others.
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}


class FrameInputs:
    """Turns RGB frames [F, H, W, 3] uint8 into `pixel_values` [F, 3, h, w] float32.

    The checkpoint's processor says how.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(
                folder, backend="pil", trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"checkpoint {folder}: no usable preprocessor_config.json: {error}"
            ) from error
        self._is_plain = _is_plain(self._processor)

    def __call__(self, frames: NDArray[np.uint8], device: torch.device) -> Tensor:
        if not self._is_plain:
            pixels = self._processor(
                list(frames), input_data_format="channels_last", return_tensors="pt"
            )
            return to_device(pixels["pixel_values"], device)

        images = (
            to_device(torch.from_numpy(np.ascontiguousarray(frames)), device)
            .permute(0, 3, 1, 2)
            .float()
        )

        size = (self._processor.size["height"], self._processor.size["width"])
        if self._processor.do_resize and images.shape[-2:] != size:
            images = _resized(images, size, _INTERPOLATION[int(self._processor.resample)])
        return self._standardized(images)

    def _standardized(self, images: Tensor) -> Tensor:
        processor = self._processor

        if processor.do_rescale:
            images = images * processor.rescale_factor

        if processor.do_normalize:
            mean = torch.tensor(processor.image_mean, device=images.device).view(3, 1, 1)
            images = (images - mean) / torch.tensor(processor.image_std, device=images.device).view(
                3, 1, 1
            )
        return images


def _resized(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize as PIL resizes bytes: the rows, then the columns, rounded to bytes after each."""
    for step in ((images.shape[-2], size[1]), size):
        images = F.interpolate(images, step, mode=mode, antialias=True).round().clamp(0, 255)
    return images


def mean_rows(
    crops: Sequence[NDArray[np.uint8]],
    forward: Callable[[NDArray[np.uint8]], Tensor],
    *,
    budget: int,
) -> list[NDArray[np.float64] | Missing]:
    """For each utterance the mean of `forward`'s rows over its frames, in float64.

    `forward` gets at most `budget` frames at a time. Frames of several utterances share a batch
    when they have one size; there is no padding between them.
    """
    outcomes: list[NDArray[np.float64] | Missing] = [
        Missing("no_face: no frame shows one") for _ in crops
    ]

    for shape in sorted({faces.shape[1:] for faces in crops if len(faces)}):
        owners = [
            index for index, faces in enumerate(crops) if len(faces) and faces.shape[1:] == shape
        ]
        rows = _rows_of(crops, owners, forward, budget)

        # `rows` holds one owner's frames after another's, so the running sum says where to split.
        ends = np.cumsum([len(crops[index]) for index in owners])
        for index, part in zip(owners, np.split(rows, ends[:-1]), strict=True):
            outcomes[index] = part.mean(axis=0)

    return outcomes


def _rows_of(
    crops: Sequence[NDArray[np.uint8]],
    owners: list[int],
    forward: Callable[[NDArray[np.uint8]], Tensor],
    budget: int,
) -> NDArray[np.float64]:
    """`forward`'s rows for all frames of `owners`, one owner after another."""
    frames = [frame for index in owners for frame in crops[index]]  # views, not copies
    batches = [
        range(start, min(start + budget, len(frames))) for start in range(0, len(frames), budget)
    ]

    rows = run_batches(batches, lambda batch: forward(np.stack([frames[index] for index in batch])))
    return np.stack([rows[index].numpy() for index in range(len(frames))]).astype(np.float64)


def probe_frames() -> NDArray[np.uint8]:
    """Four fixed images with edges and gradients, from a seed: [4, 224, 224, 3]."""
    coarse = np.random.default_rng(20_240_602).uniform(0, 255, (4, 14, 14, 3))
    return np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2).astype(np.uint8)


def _is_plain(processor: Any) -> bool:
    """Whether resize, rescale and normalize, as done here, are all that the processor does."""
    size = dict(getattr(processor, "size", None) or {})
    special = (
        "do_center_crop",
        "do_pad",
        "do_flip_channel_order",
        "crop_pct",
        "include_top",
        "rescale_offset",
    )

    return (
        set(size) == {"height", "width"}
        and int(getattr(processor, "resample", None) or 0) in _INTERPOLATION
        and not any(getattr(processor, name, None) for name in special)
    )

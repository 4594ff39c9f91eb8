"""One decoded utterance on its way from a reader to the panel.

It lives with the readers and not with the models, so that a reader process needs no torch. Unlike
other records it is not frozen: a reader fills it in step by step, and records in it what went wrong
on the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, kw_only=True)
class Utterance:
    """A sample's position in its shard, what its `json` says, and what was decoded of it.

    A modality that the sample does not have is None. `error` says why nothing of this sample can be
    used; `remark` says why one modality is missing while others are there. Both read
    "code: detail". An utterance with an `earlier` result is not decoded.
    """

    index: int
    key: str
    offset: int
    size: int
    speaker: str | None = None
    emotion: str | None = None
    language: str | None = None
    duration_seconds: float | None = None
    audio: NDArray[np.float32] | None = None  # [num_samples], 16 kHz mono
    faces: NDArray[np.uint8] | None = None  # [num_faces, size, size, 3] RGB
    face_features: NDArray[np.float32] | None = None  # [num_frames, dim]
    clip: NDArray[np.uint8] | None = None  # [num_pictures, side, side, 3] RGB
    transcript: str | None = None
    metadata: str | None = None  # the sample's json, canonical, where somebody asked for it
    error: str | None = None
    remark: str | None = None
    content: bytes | None = None  # digest of what the models see, where somebody asked for it
    earlier: Mapping[str, Any] | None = None  # a row of an earlier table, to be taken over

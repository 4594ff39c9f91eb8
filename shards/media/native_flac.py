"""Native FLAC through libFLAC, which verifies the checksum of every frame.

The length in the header is part of the check, so a file without one goes through FFmpeg like all
other formats. So does FLAC in other containers (ogg, matroska).
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile
from numpy.typing import NDArray

from shards.errors import BadSample

# Where a native FLAC file holds the MD5 of its samples.
_MD5 = slice(26, 42)
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}


def flac_length(data: bytes) -> int:
    """The number of samples in a native FLAC file's header; 0 if unknown, and for other formats."""
    # The count is the low 36 bits of these five bytes.
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1 if data[:4] == b"fLaC" else 0


def check_flac_end(data: bytes) -> None:
    """Raise BadSample(`corrupt_audio`) unless the last sample that the header states is there."""
    with _opened(data) as file:
        file.seek(file.frames - 1)
        if len(file.read(1, dtype="int32")) != 1:
            raise BadSample(
                "corrupt_audio",
                f"flac: the last of the {file.frames} samples in the header is missing",
            )


def flac_blocks(data: bytes, block_samples: int) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Blocks (sampling rate, samples `[num_samples, num_channels]`), full scale 2^31.

    The header's MD5 of all samples is verified at the end (a header whose MD5 is all zeros has
    none). Raises BadSample(`corrupt_audio`).
    """
    with _opened(data) as file:
        num_bytes = _SAMPLE_BYTES.get(file.subtype, 0)
        digest, num_samples = hashlib.md5(usedforsecurity=False), 0

        while len(block := file.read(block_samples, dtype="int32", always_2d=True)):
            # libsndfile shifts samples of any width to the top of 32 bits. The MD5 is over their
            # own bytes, the last `num_bytes` of each in little-endian order.
            digest.update(
                block.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - num_bytes :].tobytes()
            )
            num_samples += len(block)
            yield file.samplerate, block

    stored = data[_MD5]
    if num_samples != flac_length(data) or (
        num_bytes and any(stored) and digest.digest() != stored
    ):
        raise BadSample(
            "corrupt_audio",
            f"flac: got {num_samples} samples, expected {flac_length(data)} with the MD5 in the "
            "header",
        )


@contextmanager
def _opened(data: bytes) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise BadSample("corrupt_audio", f"flac: {error.error_string}") from error

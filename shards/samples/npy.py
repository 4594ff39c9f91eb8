"""Reading and writing `face.npy`, the one kind of array that a sample may carry.

`numpy.load` is not used, because the bytes may be hostile: it evaluates the header as a Python
literal, allocates the memory that the header claims before it looks at the data, and unpickles
object arrays when asked to. Here the header must match a pattern, and the size that it claims is
compared with the number of bytes that are there. Only then is an array made.
"""

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import BadSample

_MAGIC = b"\x93NUMPY"
# numpy pads the header of a 2-D array to 128 bytes; no honest header comes near this limit.
_MAX_HEADER_BYTES = 4096
_HEADER_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_HEADER = re.compile(
    rb"""\{\s*['"]descr['"]\s*:\s*['"](?P<descr>[^'"]{1,32})['"]\s*,"""
    rb"""\s*['"]fortran_order['"]\s*:\s*(?P<fortran>True|False)\s*,"""
    rb"""\s*['"]shape['"]\s*:\s*\((?P<shape>[0-9,\s]{0,200})\)\s*,?\s*\}\s*"""
)
_FLOAT_TYPES = frozenset({"<f2", "<f4", "<f8", ">f2", ">f4", ">f8"})


def decode_features(data: bytes) -> NDArray[np.float32]:
    """The features in the bytes of a `.npy` file: `[num_frames, dim]` float32.

    `num_frames` may be 0. The file may hold float16, float32 or float64 in either byte order.
    Raises BadSample when the bytes are not such an array, when the header claims another number of
    bytes than there are, or when a value is not finite as float32.
    """
    header, payload_offset = _split_header(data)
    descr, (num_frames, dim), order = _parse_header(header)

    dtype = np.dtype(descr)
    num_bytes, expected_bytes = len(data) - payload_offset, num_frames * dim * dtype.itemsize
    if num_bytes != expected_bytes:
        claim = f"shape ({num_frames}, {dim}) of {descr} needs {expected_bytes} bytes"
        raise BadSample("bad_features", f"face.npy: {claim}, but {num_bytes} follow")

    if num_frames == 0:
        return np.empty((0, dim), dtype=np.float32)
    values = np.frombuffer(data, dtype=dtype, offset=payload_offset).reshape(
        (num_frames, dim), order=order
    )
    # A float64 that float32 cannot hold becomes infinite, without a warning, and is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        features = values.astype(np.float32, order="C")
    if not np.isfinite(features).all():
        raise BadSample("non_finite_features", "face.npy holds NaN or values too large for float32")

    return features


def encode_features(features: NDArray[np.float32]) -> bytes:
    """`features` `[num_frames, dim]` as the bytes of a `.npy` file of version 1.0.

    Equal values give equal bytes. Raises ValueError for features of another shape.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"face features: got shape {features.shape}, expected (num_frames, dim) with dim at "
            "least 1"
        )

    buffer = io.BytesIO()
    array = np.ascontiguousarray(features, dtype="<f4")
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _split_header(data: bytes) -> tuple[bytes, int]:
    if data[:6] != _MAGIC or len(data) < 8:
        raise BadSample("bad_features", "face.npy does not begin like a .npy file")

    length_bytes = _HEADER_LENGTH_BYTES.get((data[6], data[7]))
    if length_bytes is None:
        raise BadSample(
            "bad_features",
            f"face.npy has format version {data[6]}.{data[7]}, expected 1.0, 2.0 or 3.0",
        )

    header_offset = 8 + length_bytes
    header_bytes = int.from_bytes(data[8:header_offset], "little")
    if header_bytes > _MAX_HEADER_BYTES or header_offset + header_bytes > len(data):
        raise BadSample(
            "bad_features",
            f"face.npy claims a header of {header_bytes} bytes in a file of {len(data)} bytes",
        )

    payload_offset = header_offset + header_bytes
    return data[header_offset:payload_offset], payload_offset


def _parse_header(header: bytes) -> tuple[str, tuple[int, int], Any]:
    match = _HEADER.fullmatch(header)
    if match is None:
        raise BadSample("bad_features", "face.npy has a header that no array library writes")

    descr = match["descr"].decode("ascii", "replace")
    if "O" in descr:
        raise BadSample(
            "pickled_features", "face.npy holds Python objects; they are never unpickled"
        )
    if descr not in _FLOAT_TYPES:
        raise BadSample(
            "bad_features", f"face.npy holds {descr!r}, expected float16, float32 or float64"
        )

    sizes = [part.strip() for part in match["shape"].split(b",") if part.strip()]
    if (
        len(sizes) != 2
        or not all(part.isdigit() and len(part) <= 9 for part in sizes)
        or int(sizes[1]) == 0
    ):
        shape = match["shape"].decode("ascii", "replace")
        raise BadSample("bad_features", f"face.npy has shape ({shape}), expected (num_frames, dim)")

    return descr, (int(sizes[0]), int(sizes[1])), "F" if match["fortran"] == b"True" else "C"

"""Checks of what is installed: Python, packages, torch and its GPU, the media libraries.

Versions are compared with the requirements of the installed distribution, so this file holds no
second list of packages. Codecs are tried, not looked up: the function that reads a corpus reads
back a tone that was encoded here.
"""

import importlib.metadata
import io
import platform
import sys
from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.doctor.finding import Finding
from shards.errors import BadSample
from shards.media.audio import decode_audio
from shards.media.sound_format import SAMPLE_RATE_HZ

DISTRIBUTION_NAME = "emostream"
# A WavLM-large, a RoBERTa-large and a face model in bfloat16, with room for batches.
MIN_GPU_BYTES = 8 << 30
TONE_SECONDS = 0.5

# Extension -> (container, encoder, sampling rate), by FFmpeg's names, of the sounds in a corpus.
CODECS: dict[str, tuple[str, str, int]] = {
    "flac": ("flac", "flac", SAMPLE_RATE_HZ),
    "wav": ("wav", "pcm_s16le", SAMPLE_RATE_HZ),
    "mp3": ("mp3", "libmp3lame", SAMPLE_RATE_HZ),
    "ogg": ("ogg", "vorbis", 48_000),
    "opus": ("ogg", "libopus", 48_000),
    "m4a": ("ipod", "aac", 48_000),
}


def check_python() -> Iterator[Finding]:
    """Compare the interpreter with the distribution's `requires-python`."""
    try:
        wanted = importlib.metadata.distribution(DISTRIBUTION_NAME).metadata["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        wanted = ""  # check_packages reports that

    version = platform.python_version()
    detail = f"{version}, {sys.executable}"

    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield Finding("python", "ok", detail)
    else:
        yield Finding(
            "python",
            "problem",
            f"{detail}; expected {wanted}",
            "uv venv --python 3.12 && uv pip install emostream",
        )


def check_packages() -> Iterator[Finding]:
    """Compare the version of each required package with what is required.

    One finding stands for all packages that fit; each package that does not has its own.
    """
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION_NAME) or []
    except importlib.metadata.PackageNotFoundError:
        detail = "emostream itself is not installed here, so its requirements are not known"
        yield Finding("packages", "warning", detail, "pip install -e .")
        return

    wanted = [
        requirement for requirement in map(Requirement, requirements) if _applies(requirement)
    ]
    faults = [fault for requirement in wanted if (fault := _package_fault(requirement))]

    yield from faults
    if not faults:
        yield Finding(
            "packages", "ok", f"all {len(wanted)} required packages have a fitting version"
        )


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement holds here, without any extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _package_fault(requirement: Requirement) -> Finding | None:
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            requirement.name, "problem", f"not installed, expected {requirement.specifier}", remedy
        )

    if requirement.specifier.contains(version, prereleases=True):
        return None
    return Finding(
        requirement.name, "problem", f"got {version}, expected {requirement.specifier}", remedy
    )


def check_torch() -> Iterator[Finding]:
    """Check whether torch loads, and what it was built for."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA is missing
        yield Finding(
            "torch",
            "problem",
            f"does not load: {error}",
            "pip install --force-reinstall 'torch>=2.11,<2.14'",
        )
        return

    build = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else "ROCm"
        if torch.version.hip
        else "CPU only"
    )
    yield Finding(
        "torch", "ok", f"{torch.__version__}, built for {build}, {torch.get_num_threads()} threads"
    )


def check_gpu() -> Iterator[Finding]:
    """Check each GPU's name, memory and bfloat16; a machine without a GPU is allowed, but slow."""
    try:
        import torch
    except (ImportError, OSError):
        return  # check_torch reports that

    if not torch.cuda.is_available():
        yield _no_gpu(
            has_driver=_has_nvidia_driver(), built_for_cuda=torch.version.cuda is not None
        )
        return

    for number in range(torch.cuda.device_count()):
        name, memory = (
            torch.cuda.get_device_name(number),
            torch.cuda.get_device_properties(number).total_memory,
        )

        with torch.cuda.device(number):
            has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        detail = f"{name}, {memory / 2**30:.0f} GiB, bfloat16 {'yes' if has_bfloat16 else 'no'}"

        if memory < MIN_GPU_BYTES:
            remedy = "use smaller checkpoints in panel.yaml, or fewer labelers on this GPU"
            yield Finding(
                f"gpu {number}", "warning", f"{detail}; the published teachers need 8 GiB", remedy
            )
        elif not has_bfloat16:
            remedy = "emostream label ... with `precision: float32` in panel.yaml"
            yield Finding(
                f"gpu {number}", "warning", f"{detail}; labeling will run in float32", remedy
            )
        else:
            yield Finding(f"gpu {number}", "ok", detail)


def _no_gpu(*, has_driver: bool, built_for_cuda: bool) -> Finding:
    if has_driver and not built_for_cuda:
        remedy = (
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"
        )
        return Finding(
            "gpu",
            "problem",
            "this machine has an NVIDIA driver, but torch is built for the CPU",
            remedy,
        )

    if has_driver:
        return Finding(
            "gpu",
            "problem",
            "there is an NVIDIA driver, but torch sees no GPU",
            "nvidia-smi; echo $CUDA_VISIBLE_DEVICES",
        )
    remedy = (
        "none is needed for the demo and for select, pack and report; to label large corpora, add "
        "nodes with GPUs"
    )
    return Finding("gpu", "warning", "none; labeling runs on the CPU", remedy)


def _has_nvidia_driver() -> bool:
    try:
        with open("/proc/driver/nvidia/version", "rb"):
            return True
    except OSError:
        return False


def check_codecs() -> Iterator[Finding]:
    """Encode a tone in each format, and read it back as a corpus is read."""
    working, faults = [], []
    for extension, (container, encoder, rate_hz) in CODECS.items():
        try:
            data = encode_tone(container, encoder, rate_hz)
        except (FFmpegError, ValueError) as error:
            detail = f"{extension} cannot be tried: this PyAV has no encoder {encoder} ({error})"
            faults.append(
                Finding(
                    "codecs",
                    "warning",
                    detail,
                    "pip install --force-reinstall --only-binary :all: av",
                )
            )
            continue
        try:
            decode_audio(data)
        except (BadSample, FFmpegError) as error:
            remedy = "pip install --force-reinstall --only-binary :all: av"
            faults.append(
                Finding("codecs", "problem", f"{extension} cannot be read: {error}", remedy)
            )
        else:
            working.append(extension)

    if working:
        yield Finding("codecs", "ok", f"{' '.join(working)} can be read (PyAV {av.__version__})")
    yield from faults


def encode_tone(container: str, encoder: str, rate_hz: int) -> bytes:
    """Encode half a second of a 440 Hz tone in stereo.

    Raises FFmpegError or ValueError when this build of FFmpeg lacks the encoder.
    """
    times = np.arange(int(TONE_SECONDS * rate_hz)) / rate_hz
    tone = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        # Why stereo and experimental: FFmpeg's own Vorbis encoder, which PyAV's wheels contain,
        # encodes stereo only and is marked experimental.
        options = {"strict": "experimental"}
        stream = cast(
            AudioStream, output.add_stream(encoder, rate=rate_hz, layout="stereo", options=options)
        )

        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = rate_hz

        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    return buffer.getvalue()


def check_face_detection() -> Iterator[Finding]:
    """Check OpenCV's face detector, which only corpora of videos need."""
    remedy = "pip install --force-reinstall 'opencv-python-headless>=4.10'"
    try:
        import cv2
    except (ImportError, OSError) as error:
        yield Finding("faces", "problem", f"OpenCV does not load: {error}", remedy)
        return

    if hasattr(cv2, "FaceDetectorYN"):
        yield Finding("faces", "ok", f"OpenCV {cv2.__version__} has the YuNet detector")
    else:
        yield Finding("faces", "problem", f"OpenCV {cv2.__version__} has no YuNet detector", remedy)

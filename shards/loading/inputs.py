"""The inputs of a model by name, and what of a sample they are; apart from the decoders, which need
codecs.

`sound` is the waveform, `face` the features of `face.npy`, `clip` some pictures of the video.
"""

from collections.abc import Mapping
from typing import Literal

InputName = Literal["sound", "face", "clip"]
Modality = Literal["audio", "face", "video"]

INPUT_OF: Mapping[Modality, InputName] = {"audio": "sound", "face": "face", "video": "clip"}

"""The names of a model's inputs, and the part of a sample that each is made from.

`sound` is the waveform, `face` the features of `face.npy`, `clip` some pictures of the video.
`states` are the hidden states of a frozen encoder of sound, which `emostream features` has stored
beside the shards. The names stand apart from the decoders, which need codecs.
"""

from collections.abc import Mapping
from typing import Literal

InputName = Literal["sound", "face", "clip", "states"]
Modality = Literal["audio", "face", "video"]

INPUT_OF: Mapping[Modality, InputName] = {"audio": "sound", "face": "face", "video": "clip"}

"""Many channels become one, without losing the voice.

The mean over all channels is right for nearly every recording, and is what stays for them, to the
bit. It fails in two ways, which show in the powers of the channels and of their mean:

- A voice in one channel of six comes out at a sixth of its level. The power of the mean lies then
  between 1/36 of the loudest channel's (the others are silent) and 1/6 (the others are as loud, and
  unrelated). Where it is nearer to the former, it is raised to the power of the loudest channel.
  For N channels the border is N^-1.5, the middle on a logarithmic scale; for two it is 0.3, so that
  all stereo in which both sides can be heard stays as it is.
- A channel that was connected the wrong way round cancels the other: the mean of inverted stereo is
  silence. Where the mean has less than half of the power that unrelated channels would leave, the
  loudest channel alone is taken.

Weights by a channel's place in the room (FFmpeg's own downmix) lost: a voice in the center of 5.1
comes out at 0.29, inverted stereo is silence there too, and the places in a WAV of a microphone
array are not true. The powers are known at the end only, so such a file is decoded a second time,
which costs less than to keep all channels of every file. What cancels in a part of the time or of
the frequencies only does not show.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.media.blocks import SoundBlock

_EXACT_IN_FLOAT32 = (np.uint8, np.int16, np.float32)

_MAX_BORDER = 0.3
_MIN_POWER_OF_UNRELATED = 0.5


class Downmix:
    """Mixes the blocks of one file, and notes the powers of the channels on the way.

    `weights` are those of the channels, by the number of channels (which may change midway);
    without them the mean is taken.
    """

    def __init__(self, weights: Mapping[int, NDArray[np.float32]] | None = None) -> None:
        self._weights = weights or {}
        # Number of channels -> the sum of squares of each channel, and behind them of the mean.
        self._powers: dict[int, NDArray[np.float64]] = {}

    def mixed(self, block: SoundBlock) -> NDArray[np.float32]:
        """The channels of `block` as one, `[num_samples]`, so that full scale is 1."""
        num_channels = len(block.channels)
        if (
            num_channels > 1
            and block.channels.dtype in _EXACT_IN_FLOAT32
            and block.dtype == np.float32
        ):
            # One pass over interleaved samples, instead of one for each sum.
            block = replace(block, channels=block.channels.astype(np.float32, order="C"))

        # A float64 sample too large for float32 becomes infinite, which is reported later.
        with np.errstate(over="ignore", invalid="ignore"):
            if num_channels in self._weights:
                return _weighted(block, self._weights[num_channels])
            mono = _mean(block)
            if num_channels > 1:
                self._note(block, mono)

        return mono

    def corrections(self) -> dict[int, NDArray[np.float32]]:
        """The weights that keep the voice, by the number of channels, where the mean loses it."""
        found = {}
        for num_channels, powers in self._powers.items():
            weights = _correction(powers[:-1], powers[-1])
            if weights is not None:
                found[num_channels] = weights

        return found

    def _note(self, block: SoundBlock, mono: NDArray[np.float32]) -> None:
        squares = []
        for channel in block.channels:
            values = channel.astype(np.float32, copy=False)
            values = (values - np.float32(block.offset)) if block.offset else values
            squares.append(float(np.dot(values, values)) / block.full_scale**2)

        powers = np.array([*squares, float(np.dot(mono, mono))])
        num_channels = len(block.channels)
        self._powers[num_channels] = self._powers.get(num_channels, 0.0) + powers


def _weighted(block: SoundBlock, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros(block.num_samples, np.float32)
    for weight, channel in zip(weights, block.channels, strict=True):
        if weight:
            total += (channel.astype(np.float32) - np.float32(block.offset)) * weight

    return total * np.float32(1.0 / block.full_scale)


def _mean(block: SoundBlock) -> NDArray[np.float32]:
    # Adding one channel after the other is ten times as fast as `mean(axis=0)` over interleaved
    # samples.
    total: NDArray[Any] = block.channels[0].astype(block.dtype)
    for channel in block.channels[1:]:
        total += channel

    # `total` is the sum over the channels, so each channel adds one offset to it.
    num_channels = len(block.channels)
    offset, full_scale = block.offset * num_channels, block.full_scale * num_channels
    if (num_channels, full_scale) == (1, 1.0):
        return total.astype(np.float32, copy=False)
    if block.dtype == np.float64:
        return (total / full_scale).astype(np.float32)
    return (total - np.float32(offset)) * np.float32(1.0 / full_scale)


def _correction(powers: NDArray[np.float64], mean: float) -> NDArray[np.float32] | None:
    num_channels, loudest = len(powers), int(np.argmax(powers))
    # NaN and infinite samples are reported by others; here they compare as "nothing to correct".
    if not 0 < powers[loudest] < np.inf:
        return None

    unrelated = powers.sum() / num_channels**2
    if mean < _MIN_POWER_OF_UNRELATED * unrelated:
        return np.eye(num_channels, dtype=np.float32)[loudest]
    if mean < min(_MAX_BORDER, num_channels**-1.5) * powers[loudest]:
        gain = np.sqrt(powers[loudest] / mean)
        return np.full(num_channels, gain / num_channels, np.float32)
    return None

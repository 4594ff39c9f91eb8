"""The one form that all sound has after decoding: 16 kHz, mono, float32.

The definitions lie apart from the decoders, so that a machine without codecs can use them.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
Waveform: TypeAlias = NDArray[np.float32]  # [num_samples], full scale is 1

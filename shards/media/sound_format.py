"""What a waveform is here, whatever the file it came from: 16 kHz, mono, float32.

Apart from the decoders, so that a machine without codecs can use it.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
Waveform: TypeAlias = NDArray[np.float32]  # [num_samples], within [-1, 1]

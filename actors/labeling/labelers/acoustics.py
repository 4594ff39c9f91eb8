"""Acoustic targets for pre-training (multimodal-adaptive-pretraining, O1).

`acoustics` holds the mean over time of each acoustic descriptor of an utterance, in one of three
sets. `egemaps` are the 25 low-level descriptors of openSMILE's eGeMAPSv02; `egemaps-32-16` are the
same from frames of 32 ms every 16 ms, as the paper has them; `builtin` needs no license.

A descriptor such as pitch exists only where there is a voice; openSMILE writes 0 elsewhere. A mean
over all frames then mostly says how much of a recording is voiced: on a clip of RAVDESS it gives a
pitch of 9.5 semitones where eGeMAPS' own functional gives 37.3. So the mean is over voiced frames,
unless the options ask for all.
"""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.inference.outcomes import Missing, Outcome
from actors.inference.windows import MIN_SAMPLES
from actors.labeling.labelers.config import AcousticsConfig
from actors.labeling.labelers.sound_descriptors import NAMES, SoundDescriptors
from shards.config import ConfigError
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform

_VOICED_SUFFIX = "nz"  # of openSMILE's descriptors that are 0 in frames without a voice
_FRAMERS = "gemaps/v01b/GeMAPSv01b_core.lld.conf.inc"
_LLD_CONFIG = "egemaps/v02/eGeMAPSv02.conf"
_FRAME_SECONDS, _STEP_SECONDS = "0.032", "0.016"


class Acoustics:
    """The means of one set of descriptors; `names` are theirs once `setup` has run."""

    def __init__(self, config: AcousticsConfig) -> None:
        self._config = config
        self.names: tuple[str, ...] = ()

    def setup(self) -> None:
        """Make the extractor. Raises ConfigError when openSMILE is needed and missing."""
        if self._config.features == "builtin":
            self._means, self.names = self._builtin, NAMES
            self._descriptors = SoundDescriptors()
            return

        self._smile = self._opensmile()
        self._means, self.names = self._egemaps, tuple(self._smile.feature_names)

    def compute(self, waveforms: Sequence[Waveform]) -> list[Outcome]:
        """[25] for each waveform; one under 0.1 s holds too few frames and is Missing.

        A descriptor of a voice is NaN where an utterance has none.
        """
        return [
            Missing(f"audio_too_short: under {MIN_SAMPLES} samples (0.1 s)")
            if len(waveform) < MIN_SAMPLES
            else self._means(waveform).astype(np.float32)
            for waveform in waveforms
        ]

    def _builtin(self, waveform: Waveform) -> NDArray[np.float64]:
        return self._descriptors.means(waveform, voiced_only=self._config.frames == "voiced")

    def _egemaps(self, waveform: Waveform) -> NDArray[np.float64]:
        frames_TX = self._smile.process_signal(
            np.ascontiguousarray(waveform), SAMPLE_RATE_HZ
        ).to_numpy()
        if self._config.frames == "all":
            return np.asarray(frames_TX.mean(axis=0), dtype=np.float64)

        counts_TX = np.array([not name.endswith(_VOICED_SUFFIX) for name in self.names]) | (
            frames_TX != 0.0
        )
        num_X = counts_TX.sum(axis=0)
        sums_X = np.where(counts_TX, frames_TX, 0.0).sum(axis=0, dtype=np.float64)
        return np.divide(sums_X, num_X, out=np.full(len(num_X), np.nan), where=num_X > 0)

    def _opensmile(self) -> Any:
        try:
            import opensmile  # an optional extra
        except ImportError as error:
            raise ConfigError(
                f"objectives.acoustics {self._config.features}: openSMILE is missing; pip install "
                "'emostream[opensmile]', or use features: builtin, which needs no license"
            ) from error

        if self._config.features == "egemaps":
            return opensmile.Smile(
                feature_set=opensmile.FeatureSet.eGeMAPSv02,
                feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
            )

        # Made from the installed package each time: its license forbids to pass the file on.
        # openSMILE reads it at every utterance, so that it is kept as long as the extractor.
        self._folder = tempfile.TemporaryDirectory(prefix="egemaps-32-16-")
        folder = Path(self._folder.name) / "config"
        shutil.copytree(Path(opensmile.__file__).parent / "core" / "config", folder)
        _set_frames(folder / _FRAMERS)
        return opensmile.Smile(str(folder / _LLD_CONFIG), "lld")


def _set_frames(path: Path) -> None:
    """Have every framer of an openSMILE configuration cut frames as the paper does."""
    text = path.read_text()
    text, num_sizes = re.subn(r"(?m)^(frameSize\s*=\s*)[\d.]+", rf"\g<1>{_FRAME_SECONDS}", text)
    text, num_steps = re.subn(r"(?m)^(frameStep\s*=\s*)[\d.]+", rf"\g<1>{_STEP_SECONDS}", text)

    if num_sizes != 2 or num_steps != 2:
        raise ConfigError(
            f"objectives.acoustics: got {num_sizes} frame sizes and {num_steps} steps in "
            f"openSMILE's {path.name}, expected 2 of each; this version of openSMILE is not known, "
            "use features: egemaps"
        )
    path.write_text(text)

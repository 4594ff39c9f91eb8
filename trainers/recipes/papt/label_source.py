"""Where pseudo-labels come from: which frames are clustered, and whose clusters they are.

Frames are MFCCs, a layer of the encoder that is trained, or a layer of another encoder. The
clusters are fitted to the corpus or given.

Shapes: L labels (clusters), F features.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder, require_modality
from trainers.models.parts.device import default_device
from trainers.recipes.papt.config import PretrainConfig
from trainers.recipes.papt.frame_features import FrameFeatures, LayerFeatures, Mfcc
from trainers.recipes.papt.given_centers import read_centers
from trainers.recipes.papt.pseudo_labels import PseudoLabelJob
from trainers.settings.encoder import EncoderConfig


class LabelSource:
    """Makes the job that labels frames as the options say.

    `first_encoder` gives the encoder that training starts from. Raises ConfigError when the given
    centers cannot be used.
    """

    def __init__(
        self,
        options: PretrainConfig,
        encoder: EncoderConfig,
        first_encoder: Callable[[], LayerwiseEncoder],
        *,
        seed: int,
    ) -> None:
        self._options, self._encoder, self._seed = options, encoder, seed
        self._first_encoder = first_encoder
        self._given_LF = _given_centers(options)

    def job(self, folder: Path, index: CorpusIndex) -> PseudoLabelJob:
        """The job that labels the utterances of `index`; its files lie in `folder`."""
        return PseudoLabelJob(folder, index, self._frame_features(), self._identity())

    def find_centers(self, job: PseudoLabelJob) -> None:
        """Give the job its centers: those that are given, or fitted ones."""
        options = self._options
        if self._given_LF is not None:
            job.use(self._given_LF)
            return

        job.fit(num_labels=options.num_labels, max_frames=options.cluster_frames, seed=self._seed)

    def _identity(self) -> Mapping[str, object]:
        """What the labels depend on."""
        options, encoder, given_LF = self._options, self._encoder, self._given_LF
        is_another = options.label_encoder is not None

        return {
            "layer": options.label_layer,
            "num_labels": options.num_labels,
            "encoder": options.label_encoder if is_another else encoder.checkpoint,
            "revision": options.label_revision if is_another else encoder.revision,
            "centers": None if given_LF is None else sha256(given_LF.tobytes()).hexdigest(),
            "cluster_frames": options.cluster_frames,
            "seed": self._seed,
        }

    def _frame_features(self) -> FrameFeatures:
        layer = self._options.label_layer
        if layer is None:
            return Mfcc()
        return LayerFeatures(self._label_encoder().to(default_device()), layer)

    def _label_encoder(self) -> LayerwiseEncoder:
        options = self._options
        if options.label_encoder is None:
            return self._first_encoder()

        encoder = load_encoder(
            options.label_encoder,
            options.label_revision,
            options=("model.label_encoder", "model.label_revision"),
        )
        require_modality(encoder, "audio", option="model.label_encoder")
        return encoder


def _given_centers(options: PretrainConfig) -> NDArray[np.float32] | None:
    if options.label_centers is None:
        return None

    centers_LF = read_centers(options.label_centers)
    if len(centers_LF) != options.num_labels:
        raise ConfigError(
            f"model.label_centers {options.label_centers}: got {len(centers_LF)} centers, expected "
            f"{options.num_labels}, as model.num_labels says; change one of the two"
        )
    return centers_LF

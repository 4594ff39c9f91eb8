"""Registers the project's own models, so that one `from_pretrained` loads every checkpoint.

This is an explicit call and not a side effect of an import; calling it again changes nothing.
"""

from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification

from trainers.models.classifiers.face_sequence import FaceSequenceConfig
from trainers.models.classifiers.mel import MelClassifier, MelClassifierConfig
from trainers.models.classifiers.odyssey import OdysseyClassifier, OdysseyConfig
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.encoder import (
    Data2VecEncoder,
    Data2VecForAudioClassification,
)
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig


def register_models() -> None:
    """Register the configurations, the encoders and the audio classifiers with transformers.

    `FaceSequenceClassifier` has no Auto class.
    """
    for config in (
        MelClassifierConfig,
        OdysseyConfig,
        FaceSequenceConfig,
        SequenceEncoderConfig,
        Data2VecConfig,
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)

    AutoModel.register(SequenceEncoderConfig, SequenceEncoder, exist_ok=True)
    AutoModel.register(Data2VecConfig, Data2VecEncoder, exist_ok=True)
    AutoModelForAudioClassification.register(MelClassifierConfig, MelClassifier, exist_ok=True)
    AutoModelForAudioClassification.register(OdysseyConfig, OdysseyClassifier, exist_ok=True)
    AutoModelForAudioClassification.register(
        Data2VecConfig, Data2VecForAudioClassification, exist_ok=True
    )

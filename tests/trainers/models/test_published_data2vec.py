"""A published model becomes an encoder for recipes, or a panel's labeler of sound."""

from pathlib import Path

import numpy as np
import torch

from actors.inference.config import BatchingConfig
from actors.inference.runtime import Runtime
from actors.labeling.labelers.audio import AudioLabeler
from actors.labeling.labelers.config import LabelerConfig
from shards.emotions import EMOTIONS
from tests.trainers.models.encoders.data2vec.test_published import published
from trainers.models.encoders.data2vec.decoders import load_decoder, make_decoder
from trainers.models.encoders.data2vec.published import EMOTION2VEC_PLUS_CLASSES, from_fairseq
from trainers.models.encoders.loading import load_encoder
from trainers.models.published_data2vec import save_published


def test_a_file_of_fairseq_becomes_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    """`load_encoder` opens the folder, and the decoder beside it is the file's."""
    model, decoder, weights = published()
    save_published(from_fairseq(weights), tmp_path)

    encoder = load_encoder(str(tmp_path)).eval()
    assert encoder.normalizes
    sounds, lengths = torch.randn(1, 4000), torch.tensor([4000])
    with torch.inference_mode():
        assert torch.equal(encoder.model(sounds, lengths)[0], model(sounds, lengths)[0])

    again = make_decoder(encoder.model.config)
    assert load_decoder(again, tmp_path)
    assert all(torch.equal(again.state_dict()[name], v) for name, v in decoder.state_dict().items())


def test_emotion2vec_plus_labels_sound_in_a_panel(tmp_path: Path) -> None:
    """Its nine classes become the seven emotions, and the labels are those of its own layout."""
    model, _, weights = published()
    head = {"proj.weight": torch.randn(9, 32), "proj.bias": torch.randn(9)}
    save_published(from_fairseq(weights | head), tmp_path)

    config = LabelerConfig(checkpoint=str(tmp_path), drop_labels=("other", "unknown"))
    labeler = AudioLabeler(config, window_seconds=30.0)
    labeler.setup(tmp_path, Runtime.of("float32", 0.01, BatchingConfig()))
    waveform = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    (found,) = labeler.label([waveform])

    # The same folder is an encoder to fine-tune from; its classifier is left out.
    encoder, sounds = load_encoder(str(tmp_path)).eval(), torch.randn(1, 4000)
    with torch.inference_mode():
        frames, _ = encoder.model(sounds, torch.tensor([4000]))
        assert torch.equal(frames, model(sounds, torch.tensor([4000]))[0])

    samples = torch.nn.functional.layer_norm(torch.from_numpy(waveform), (8000,)).unsqueeze(0)
    with torch.inference_mode():
        pooled = model(samples, torch.tensor([8000]))[0].mean(dim=1)
        probabilities = (pooled @ head["proj.weight"].T + head["proj.bias"]).softmax(dim=1)[0]
    theirs = {
        "angry": "anger",
        "disgusted": "disgust",
        "fearful": "fear",
        "happy": "happiness",
        "neutral": "neutral",
        "sad": "sadness",
        "surprised": "surprise",
    }
    expected = dict.fromkeys(EMOTIONS, 0.0)
    for name, value in zip(EMOTION2VEC_PLUS_CLASSES, probabilities.tolist(), strict=True):
        if name in theirs:
            expected[theirs[name]] = value
    total = sum(expected.values())
    np.testing.assert_allclose(found, [expected[name] / total for name in EMOTIONS], atol=1e-5)

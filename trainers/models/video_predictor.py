"""Masked reconstruction of video, as VideoMAE is pre-trained, with or without speaker embeddings.

The decoder and the loss are those of transformers' `VideoMAEForPreTraining`: the mean square error
of the pixels of hidden patches, which are standardized within each patch. Only the encoder in it is
replaced, by the same weights behind the seams at which speaker embeddings enter. Writing decoder
and loss anew was rejected, as there would be two to keep in step.

Shapes: N clips, T patches, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import VideoMAEForPreTraining
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging as transformers_logging

from shards.config import ConfigError
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding


class MaskedVideoPredictor(nn.Module):
    """An encoder with a decoder that reconstructs the patches that the encoder cannot see."""

    def __init__(
        self,
        encoder: LayerwiseEncoder,
        *,
        speakers: SpeakerEmbedding | None = None,
        decoder: dict[str, Tensor] | None = None,
    ) -> None:
        """`decoder` are the weights of a trained decoder, by their names in transformers."""
        super().__init__()
        if encoder.model.config.model_type != "videomae":
            raise ConfigError(
                f"encoder.checkpoint: got a {encoder.model.config.model_type} model, expected "
                "videomae, whose pre-training is continued"
            )

        whole = VideoMAEForPreTraining(encoder.model.config)
        whole.videomae = _PersonalizedEncoder(encoder, speakers)
        if decoder is not None:
            whole.load_state_dict(decoder, strict=False)
        self._whole = whole

    @property
    def encoder(self) -> LayerwiseEncoder:
        """The encoder."""
        found: LayerwiseEncoder = self._whole.videomae.encoder
        return found

    @property
    def speakers(self) -> SpeakerEmbedding | None:
        """The embeddings of the speakers, if there are any."""
        found: SpeakerEmbedding | None = self._whole.videomae.speakers
        return found

    def forward(self, clips: Tensor, hide_NT: Tensor, speakers_N: Tensor | None = None) -> Tensor:
        """Compute the mean error of the hidden patches of `clips` [N, pictures, 3, side, side].

        Every clip must hide equally many patches. With speaker embeddings, `speakers_N` is the
        number of each clip's speaker.
        """
        dtype = next(self._whole.decoder.parameters()).dtype
        loss: Tensor = self._whole(
            clips.to(dtype), bool_masked_pos=hide_NT, speakers_N=speakers_N
        ).loss
        return loss


def load_decoder(folder_or_name: str, revision: str | None = None) -> dict[str, Tensor] | None:
    """Load the decoder of a checkpoint of pre-training; None for an encoder alone."""
    where = {"revision": revision} if revision else {}
    verbosity = transformers_logging.get_verbosity()
    # An encoder alone is no fault, but transformers would warn of each weight that a decoder lacks.
    transformers_logging.set_verbosity_error()
    try:
        whole, found = VideoMAEForPreTraining.from_pretrained(
            folder_or_name,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **where,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)

    own = {
        name: value
        for name, value in whole.state_dict().items()
        if not name.startswith("videomae.")
    }
    return None if own.keys() & set(found["missing_keys"]) else own


class _PersonalizedEncoder(nn.Module):
    """Takes the place of `VideoMAEModel` within `VideoMAEForPreTraining`."""

    def __init__(self, encoder: LayerwiseEncoder, speakers: SpeakerEmbedding | None) -> None:
        super().__init__()
        self.encoder, self.speakers = encoder, speakers

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        speakers_N: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        before_layer = None
        if self.speakers is not None and speakers_N is not None:
            before_layer = self.speakers.before_layer(speakers_N)

        # A clip has a fixed number of pictures, so an encoder of clips ignores their lengths.
        lengths_N = bool_masked_pos.sum(dim=1)
        frames_NTD, mask_NT = self.encoder(pixel_values, lengths_N, before_layer, bool_masked_pos)
        if self.speakers is not None and speakers_N is not None:
            frames_NTD, _mask_NT = self.speakers.after_layers(frames_NTD, mask_NT, speakers_N)

        return BaseModelOutput(last_hidden_state=frames_NTD)

"""The adapter of Whisper's encoder, which always hears 30 seconds.

Sound is padded with silence to this length, and attention looks at the silence too: the encoder was
trained so, and knows no mask. The mask that is given back tells the utterance's own frames from the
silence behind them, so that features are pooled over the utterance alone. An utterance therefore
does not depend on its batchmates, but a pass costs 30 seconds, however short it is.

A prefix position is one more key and value of a layer's attention. It has no position embedding:
these are added before the first layer, to the frames alone.

The decoder is left out. Whisper was not trained to predict hidden frames, so `tapt` and `papt` do
not take it.

Shapes: N utterances, S samples, T frames, M mel bands, D width.
"""

from typing import Any

from torch import Tensor, nn

from shards.config import ConfigError
from shards.loading.inputs import Modality
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.encoders.adapter import EncoderAdapter
from trainers.models.encoders.seams import BeforeLayer, seams
from trainers.models.parts.filter_banks import WHISPER_HOP_SAMPLES, WhisperLogMel
from trainers.models.parts.layers import frame_mask


class WhisperAdapter(EncoderAdapter):
    """The encoder of Whisper; a frame is 20 ms."""

    FRONT_ENDS = ("conv1", "conv2")
    PROJECTED_LAYOUT = "NDT"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.layerdrop = 0.0
        self._log_mel = WhisperLogMel(model.config.num_mel_bins)
        self._hop_samples = WHISPER_HOP_SAMPLES * model.conv1.stride[0] * model.conv2.stride[0]
        self.max_samples = model.config.max_source_positions * self._hop_samples

    @property
    def modality(self) -> Modality:
        return "audio"

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.layers
        return found

    @property
    def projected(self) -> nn.Module:
        found: nn.Module = self.model.conv2
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] that have some of the `lengths_N` samples in them."""
        return (lengths_N - 1).clamp_min(0) // self._hop_samples + 1

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        samples_NS = self._prepared(inputs, lengths_N)
        mask_NT = frame_mask(self.num_frames(lengths_N), self.model.config.max_source_positions)

        with seams(self.layers, before_layer, mask_NT) as masks:
            dtype = next(self.model.parameters()).dtype
            output = self.model(self._log_mel(samples_NS).to(dtype))
        return output.last_hidden_state, masks[-1]

    def _prepared(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        """Pad with silence to the length that the model hears."""
        assert self.max_samples is not None  # noqa: S101 (set above)
        longest = int(lengths_N.max())
        if longest > self.max_samples:
            raise ConfigError(
                f"encoder.checkpoint: got an utterance of {longest / SAMPLE_RATE_HZ:.1f} s for a "
                f"whisper model, which hears {self.max_samples / SAMPLE_RATE_HZ:.0f} s at most; "
                "leave longer utterances out, or cut them (predict: --window)"
            )

        silent_NS = samples_NS.masked_fill(~frame_mask(lengths_N, samples_NS.shape[1]), 0.0)
        silent_NS = silent_NS[:, : self.max_samples]
        return nn.functional.pad(silent_NS, (0, self.max_samples - silent_NS.shape[1]))

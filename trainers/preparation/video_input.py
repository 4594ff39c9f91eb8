"""Determines the format of the clips that a video encoder sees.

The encoder's configuration says how many pictures a clip has, and how large they are. Its image
processor says how pictures are resized and how colors are normalized. A processor that does
anything else (for example another crop, padding, or no resizing) is refused: the clips would differ
from those that the encoder was trained on.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, VideoMAEImageProcessorPil

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.media.clip_format import ClipFormat
from shards.media.face_config import FaceBoxConfig
from shards.storage.documents import read_json
from trainers.models.recognizer import is_recognizer
from trainers.settings.encoder import EncoderConfig


def clip_format(encoder: EncoderConfig, faces: FaceBoxConfig) -> ClipFormat:
    """The format of the clips for `encoder`; `faces` says how faces are cut from the pictures.

    Raises ConfigError for a checkpoint that is no video encoder, or whose image processor makes
    pictures in a way that clips cannot be made in.
    """
    checkpoint = encoder.checkpoint
    if checkpoint is None:
        return ClipFormat(
            num_frames=encoder.num_frames,
            side_pixels=encoder.image_size,
            shortest_edge_pixels=encoder.image_size,
            faces=faces,
        )
    if is_recognizer(checkpoint):
        return _as_trained(checkpoint, faces)

    where: dict[str, Any] = {"revision": encoder.revision} if encoder.revision else {}
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **where)
        processor = AutoImageProcessor.from_pretrained(
            checkpoint, backend="pil", trust_remote_code=False, **where
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"encoder.checkpoint {checkpoint}: no usable config.json and preprocessor_config.json, "
            f"which say how pictures are made for a video encoder: {error}"
        ) from error

    return _as_processed(checkpoint, config, processor, faces)


def save_processor(clip: ClipFormat, folder: Path) -> None:
    """Write into `folder` the image processor that makes clips of this format.

    `clip_format` reads it back, but for the faces: no image processor can say how they are cut.
    """
    side = clip.side_pixels
    VideoMAEImageProcessorPil(
        size={"shortest_edge": clip.shortest_edge_pixels},
        crop_size={"height": side, "width": side},
        resample=clip.resample,
        rescale_factor=clip.rescale_factor,
        image_mean=list(clip.mean),
        image_std=list(clip.std),
    ).save_pretrained(folder)


def _as_trained(checkpoint: str, faces: FaceBoxConfig) -> ClipFormat:
    """The format of the run that exported `checkpoint`.

    Faces are found as in that run, unless `faces` differs from the defaults.
    """
    saved = read_json(Path(checkpoint) / "config.json").get("clip")
    if saved is None:
        raise ConfigError(
            f"encoder.checkpoint {checkpoint}: was not trained on video, expected a video "
            "recognizer; give another checkpoint, or another data.modality"
        )

    chosen = {} if faces == FaceBoxConfig() else {"faces": faces}
    return from_mapping(ClipFormat, saved | chosen, where="encoder.checkpoint: clip")


def _as_processed(checkpoint: str, config: Any, processor: Any, faces: FaceBoxConfig) -> ClipFormat:
    if config.model_type != "videomae":
        raise ConfigError(
            f"encoder.checkpoint {checkpoint}: got a {config.model_type} model for video, expected "
            "videomae; give another checkpoint, or another data.modality"
        )

    # The processes that decode make clips by themselves, and they do exactly these four steps.
    side = config.image_size
    steps = [
        processor.do_resize,
        processor.do_center_crop,
        processor.do_rescale,
        processor.do_normalize,
    ]
    crop, size = dict(processor.crop_size or {}), dict(processor.size or {})
    if not all(steps) or crop != {"height": side, "width": side} or "shortest_edge" not in size:
        raise ConfigError(
            f"encoder.checkpoint {checkpoint}: preprocessor_config.json has size {size} and "
            f"crop_size {crop}, expected a shortest_edge and the {side} x {side} of config.json, "
            "and the steps resize, crop, rescale and normalize; give another checkpoint"
        )

    return ClipFormat(
        num_frames=config.num_frames,
        side_pixels=side,
        shortest_edge_pixels=size["shortest_edge"],
        resample=int(processor.resample),
        rescale_factor=processor.rescale_factor,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        faces=faces,
    )

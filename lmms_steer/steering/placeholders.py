"""Find the input ids that a model replaces by images, videos and audio, from its config.

This module imports no torch.
"""

from dataclasses import dataclass
from typing import Any

from lmms_steer.steering.support import WITHOUT_IMAGE_POSITIONS, has_encoder

MEDIA = ("image", "video", "audio")
"""Kinds of positions that hold features of an encoder. All others are text."""
VIDEO_ON_IMAGES = ("internvl", "molmo2", "nemotron_h_omni", "smolvlm")
"""`model_type` of models whose videos are marked like images, so that the two cannot be told apart."""
WITHOUT_VIDEO = ("paddleocr_vl",)
"""`model_type` of models whose config names a video token, but whose forward takes no video."""
BY_MASK = -200
"""Stands for the ids at the positions that `image_embeds_position_mask` marks; no vocabulary has it."""
_MASKED = ("kosmos-2", "kosmos-2.5")
"""`model_type` of models that take images at the positions which that mask marks, whatever ids are there."""
_IN_SPANS = ("glm46v", "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "glmga")
"""`model_type` of models that put a video on image tokens between a start and an end token."""


@dataclass(frozen=True, slots=True)
class Placeholders:
    """The input ids that a model replaces by features.

    Attributes:
        image, video, audio: the ids of each kind; empty where the model takes none, or marks them nowhere.
        video_span: the ids between which an image id is a video's (GLM-4V); None for models with a video id.
    """

    image: tuple[int, ...] = ()
    video: tuple[int, ...] = ()
    audio: tuple[int, ...] = ()
    video_span: tuple[int, int] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that have ids."""
        return tuple(kind for kind in MEDIA if getattr(self, kind))


def placeholders(config: Any) -> Placeholders:
    """The placeholders that a config names. Text models and the decoders of encoder-decoders have no such tokens."""
    if has_encoder(config):
        return Placeholders()
    # Qwen-Omni: the part of the model that reads and writes text
    config = getattr(config, "thinker_config", None) or config
    kind = getattr(config, "model_type", None)
    image = () if kind in WITHOUT_IMAGE_POSITIONS else _image_ids(config)
    if kind in _IN_SPANS:
        return Placeholders(image, image, video_span=(config.video_start_token_id, config.video_end_token_id))
    video = () if kind in VIDEO_ON_IMAGES + WITHOUT_VIDEO else _named(config, "video_token_id", "video_token_index")
    return Placeholders(image, video, _audio_ids(config))


def hides(config: Any, kind: str) -> bool:
    """Whether a model takes images or audio, but its config names no id for them: text cannot be told from them."""
    config = getattr(config, "thinker_config", None) or config
    if kind == "video" or has_encoder(config):
        return False
    if kind == "image" and getattr(config, "model_type", None) in WITHOUT_IMAGE_POSITIONS:
        return False
    towers = {"image": ("vision_config", "vq_config"), "audio": ("audio_config",)}[kind]
    takes = any(getattr(config, name, None) is not None for name in towers)
    return takes and not getattr(placeholders(config), kind)


def hides_media(config: Any) -> bool:
    """Whether some of a model's images or audio are at positions that its config does not tell from text."""
    return any(hides(config, kind) for kind in MEDIA)


def _named(config: Any, *names: str) -> tuple[int, ...]:
    """The ids among some attributes of a config, each once."""
    values = [getattr(config, name, None) for name in names]
    return tuple(dict.fromkeys(value for value in values if isinstance(value, int)))


def _image_ids(config: Any) -> tuple[int, ...]:
    if getattr(config, "model_type", None) in _MASKED:
        return (BY_MASK,)
    named = _named(config, "image_token_id", "image_token_index", "image_patch_id")
    if named:
        return named
    # Chameleon and Emu3
    in_vocabulary = (getattr(config, "vocabulary_map", None) or {}).get("<image>")
    # Phi-4 multimodal
    in_tower = _named(getattr(config, "vision_config", None), "image_token_id")
    return in_tower or ((in_vocabulary,) if isinstance(in_vocabulary, int) else ())


def _audio_ids(config: Any) -> tuple[int, ...]:
    if getattr(config, "audio_config", config) is None:
        # a checkpoint without the tower, as the larger ones of Gemma 4
        return ()
    named = _named(config, "audio_token_id", "audio_token_index")
    return named or _named(getattr(config, "audio_config", None), "audio_token_id")

"""Which architectures cannot be steered, known from the config alone, before any weights are fetched."""

import functools
from importlib.metadata import version
from typing import Any

from lmms_steer.errors import UserError

# every `steer` block asks, and reading a package's metadata takes a millisecond
_installed = functools.cache(version)
_WIDE = "its residual is several streams of hidden states, and a vector for one of them is not defined"
ENCODER_DECODERS = ("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder")
"""`model_type` of the encoder-decoders whose decoder is steered."""
_ENCODER = f"it is an encoder-decoder, and of those only {', '.join(ENCODER_DECODERS)} are steered, in their decoder"
REFUSED = {
    "blip": "its generate changes the first token of the prompt and leaves out the last, which a forward call does not",
    "git": "images are put in front of the prompt inside the model, so that its positions are not those of input_ids",
    "deepseek_v4": _WIDE,
    "hy_v4": _WIDE,
    "gemma3n": _WIDE,
    "gemma3n_text": _WIDE,
    "glm5_next": _WIDE,
    "glm5_next_text": _WIDE,
    "hy_v4_vl": _WIDE,
    "hy_v4_vl_text": _WIDE,
    "qwen4_exp": _WIDE,
    "qwen4_exp_text": _WIDE,
    "diffusion_gemma": "it writes blocks of tokens by diffusion, not one after the other",
    "pi0": "it predicts robot actions, not text",
    "evolla": "it reads proteins, not images",
}
"""`model_type` ▸ why a model of this type is not steered."""
DOES_NOT_RUN = {("llama4", "5.24.0"): "transformers 5.24.0 cannot run it, steered or not: install 5.23"}
"""(`model_type`, version of transformers) ▸ why a model is refused whose forward pass fails in that version."""
WITHOUT_IMAGE_POSITIONS = {
    "mllama": "images enter by cross-attention",
    "idefics": "images enter by cross-attention",
    "instructblipvideo": "it takes videos only",
}
"""`model_type` ▸ why no position of its prompts is an image's, even where the config names an image token."""

NEEDS_IMAGES = ("idefics",)
"""`model_type` whose layers run with an image only, so that sentences cannot be read in them."""


def check_backbone(config: Any, name: str) -> None:
    """Refuse a model whose language model cannot read sentences, or that cannot be steered.

    Args:
        config, name: as for `check_config`.

    Raises:
        UserError: with the reason.
    """
    check_config(config, name)
    kind = str(getattr(config, "model_type", ""))
    if has_encoder(config):
        raise UserError(
            f"cannot read sentences in {name} ({kind}): its encoder would read them, and vectors are for its decoder"
        )
    if kind in NEEDS_IMAGES:
        raise UserError(
            f"cannot read sentences in {name} ({kind}): its layers run with an image only. Extract from the text model"
            " that it was made of"
        )


def has_encoder(config: Any) -> bool:
    """Whether a config is of an encoder-decoder, whose question and images are in the encoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


def check_config(config: Any, name: str) -> None:
    """Refuse a model that cannot be steered.

    Args:
        config: the model's config.
        name: the model as the user named it.

    Raises:
        UserError: with the reason.
    """
    kind = str(getattr(config, "model_type", ""))
    text = getattr(config, "text_config", None)
    reason = REFUSED.get(kind) or REFUSED.get(str(getattr(text, "model_type", "")))
    reason = reason or DOES_NOT_RUN.get((kind, _installed("transformers")))
    # BLIP-2 and InstructBLIP come with a T5, too
    if reason is None and (has_encoder(config) or has_encoder(text)) and kind not in ENCODER_DECODERS:
        reason = _ENCODER
    if reason is not None:
        raise UserError(f"cannot steer {name} ({kind}): {reason}")

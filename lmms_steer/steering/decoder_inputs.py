"""Which arguments of a call are the decoder's.

An encoder-decoder is given its question and its image in the encoder, by `input_ids` and others, and its decoder runs
on `decoder_input_ids`. Its steered layers are the decoder's, so those are the ids whose positions are steered.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import SteeringError
from lmms_steer.steering.support import has_encoder

_TOKENS_OF_THEIR_OWN = ("donut",)
"""Parts of the names of encoders whose decoder's prompt `generate` takes as it is, without a start token."""


def decoder_arguments(model: nn.Module, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a forward call, with the decoder's ids and mask as `input_ids` and `attention_mask`.

    Args:
        model: the transformers model, without wrappers.
        kwargs: the arguments of its forward call by name.

    Raises:
        SteeringError: for a call of an encoder-decoder without the decoder's ids.
    """
    if not has_encoder(getattr(model, "config", None)):
        return kwargs
    ids = kwargs.get("decoder_input_ids")
    if not isinstance(ids, Tensor):
        made = "made from labels inside the model" if kwargs.get("labels") is not None else "not known"
        raise SteeringError(
            f"a {type(model).__name__} is steered in its decoder, whose ids are {made}: pass decoder_input_ids"
        )
    return {**kwargs, "input_ids": ids, "attention_mask": kwargs.get("decoder_attention_mask")}


def decoder_ids(inputs: Mapping[str, Any]) -> Tensor:
    """The ids that the decoder runs on, among the inputs of a model."""
    ids: Tensor = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]
    return ids


def decoder_mask(inputs: Mapping[str, Any]) -> Any:
    """The attention mask of `decoder_ids`; None if nothing is padded."""
    return inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")


def decoder_prompt(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], setting: Callable[[str], Any]
) -> tuple[Tensor, Tensor | None]:
    """What the decoder of an encoder-decoder is given before it writes, as `generate` makes it.

    That is the start token and what the caller passes for the decoder; where the caller passes nothing more, also the
    token that the model is forced to begin with.

    Args:
        model: the transformers model, without wrappers.
        args, kwargs: of `generate`.
        setting: the name of a generation setting ▸ its value in this call.

    Returns:
        ids [batch, positions], and their attention mask or None.

    Raises:
        SteeringError: if the number of prompts or the start token is not known.
    """
    main = _encoder_input(model)
    start, of_encoder = setting("decoder_start_token_id"), _of_encoder(args, kwargs, main)
    start = setting("bos_token_id") if start is None else start
    if start is None or of_encoder is None:
        missing = main if of_encoder is None else "decoder_start_token_id"
        raise SteeringError(f"generate was called without {missing}, so that the decoder's prompt is not known")
    batch = len(of_encoder)
    first = torch.as_tensor(start, dtype=torch.long, device=of_encoder.device).reshape(-1, 1).expand(batch, 1)
    given = kwargs.get("decoder_input_ids")
    if given is None and main != "input_ids":
        given = kwargs.get("input_ids")
    mask = kwargs.get("decoder_attention_mask")
    mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
    if given is None:
        ids = first
    elif _begins_itself(model) or not bool((given[:, 0] != first[:, 0].to(given.device)).all()):
        ids = given
    else:
        ids = torch.cat([first.to(given.device), given], 1)
        mask = None if mask is None else torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
    forced = setting("forced_bos_token_id")
    if ids.shape[1] == 1 and forced is not None:
        ids = torch.cat([ids, torch.full_like(ids, int(forced))], 1)
        mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids, mask


def _encoder_input(model: Any) -> str:
    """The name of the encoder's first input, as `generate` finds it."""
    return str(getattr(getattr(model, "encoder", model), "main_input_name", model.main_input_name))


def _of_encoder(args: tuple[Any, ...], kwargs: Mapping[str, Any], main: str) -> Tensor | None:
    """A tensor of the encoder with one row for each prompt; None without one."""
    outputs = kwargs.get("encoder_outputs")
    candidates = (
        args[0] if args else None,
        *(kwargs.get(name) for name in ("inputs", main, "inputs_embeds")),
        outputs[0] if outputs is not None else None,
    )
    return next((one for one in candidates if isinstance(one, Tensor)), None)


def _begins_itself(model: Any) -> bool:
    encoder = str(getattr(getattr(model.config, "encoder", None), "model_type", ""))
    return any(name in part.lower() for name in _TOKENS_OF_THEIR_OWN for part in (type(model).__name__, encoder))

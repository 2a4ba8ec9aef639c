"""Check that an intervention fits a loaded model: its layers, its tokens, what it reads of its vision tower."""

from collections.abc import Collection
from typing import Any

from torch import nn

from lmms_steer.errors import UserError
from lmms_steer.steering.fit import check_layers, no_vision_tower
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.placeholders import MEDIA, VIDEO_ON_IMAGES, hides, placeholders
from lmms_steer.steering.positions import require_special_ids
from lmms_steer.steering.scaled_vectors import gamma_at
from lmms_steer.steering.support import has_encoder

_PLURAL = {"image": "images", "video": "videos", "audio": "audio"}


def check_in_tower(intervention: Intervention, model: nn.Module, tower: nn.ModuleList | None) -> None:
    """Check that an intervention changes something in the vision tower of a model.

    Raises:
        UserError: for a model without one, or without the layer, or that does not read the layer.
    """
    config: Any = model.config
    name = type(model).__name__
    if tower is None:
        raise no_vision_tower(intervention.site, name)
    check_layers(intervention, len(tower), f"{name}'s vision tower")
    deepest = deepest_read(config, len(tower))
    if min(intervention.layer_numbers) > deepest:
        raise UserError(
            f"site={intervention.site},layer={min(intervention.layer_numbers)}: {name} reads its vision tower"
            f" {f'up to layer {deepest}' if deepest >= 0 else 'before its first layer'}"
            f" (vision_feature_layer={config.vision_feature_layer}), so this would change nothing"
        )


def deepest_read(config: Any, n_layers: int) -> int:
    """The last layer of the vision tower on which what the decoder sees depends; -1 for the embeddings alone."""
    given = getattr(config, "vision_feature_layer", None)
    indices: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    # Granite 4 Vision has the key, but reads the layers that another one names
    if hasattr(config, "deepstack_layer_map") or not all(isinstance(index, int) for index in indices):
        return n_layers - 1
    # of the hidden states, the first one is the embeddings
    read: int = max(index if index >= 0 else index + n_layers + 1 for index in indices)
    return read - 1


def check_in_decoder(
    intervention: Intervention, model: nn.Module, n_layers: int, special_ids: Collection[int] | None
) -> None:
    """Check that the decoder of a model has the layers and the tokens of an intervention.

    Raises:
        UserError: for a layer or tokens that it does not have, tokens that its config does not tell apart, or a mask of
            the paper's without `special_ids`.
    """
    config, name = model.config, type(model).__name__
    check_layers(intervention, n_layers, name)
    tokens = str(intervention.tokens)
    if tokens in MEDIA and tokens not in placeholders(config).kinds:
        raise UserError(f"tokens={tokens}: {_without_tokens(config, tokens, name)}")
    hidden = [kind for kind in MEDIA if hides(config, kind)]
    unknown = f"the config of this {name} does not say which tokens are {' and '.join(_PLURAL[k] for k in hidden)}"
    if hidden and tokens not in (*MEDIA, "both", "last"):
        raise UserError(f"tokens={tokens}: {unknown}, choose tokens=both")
    # generated tokens are text, so gammas split nothing there
    if tokens == "both" and intervention.phase != "decode":
        gamma = gamma_at(intervention, "text")
        if any(gamma_at(intervention, kind) != gamma for kind in hidden):
            gammas = f"gamma_image={intervention.gamma_image:g},gamma_text={gamma:g}"
            raise UserError(f"{gammas}: {unknown}, leave the gammas out")
    require_special_ids(tokens, special_ids)


def _without_tokens(config: Any, kind: str, name: str) -> str:
    """Why a model has no tokens of a kind, and what to choose instead."""
    if has_encoder(config):
        return f"the {_PLURAL[kind]} of a {name} are in its encoder, and its decoder is steered, choose tokens=text"
    if kind == "video" and config.model_type in VIDEO_ON_IMAGES:
        return f"{name} shows a video on its image tokens, choose tokens=image"
    if hides(config, kind):
        return f"{name} has no {kind} tokens, choose tokens=both"
    known = ", ".join(placeholders(config).kinds)
    return f"{name} has no {kind} tokens, choose tokens={f'{known} or ' if known else ''}text"

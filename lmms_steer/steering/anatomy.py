"""Find the decoder layers and the vision layers of a transformers model."""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import GenerationMixin

from lmms_steer.errors import UserError
from lmms_steer.steering.facts import ModelFacts, Norms, decoder_shape, facts_of_config, vision_shape
from lmms_steer.steering.support import check_config, has_encoder

_known_norms: WeakKeyDictionary[nn.Module, Norms] = WeakKeyDictionary()
"""Loaded model ▸ its residual norms, for `scale=relative`."""
_used_norms: WeakKeyDictionary[nn.Module, list[Norms]] = WeakKeyDictionary()
"""Loaded model ▸ all norms that specs were resolved with for it, of images and of text alone."""

_TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder")
_TOWER_LAYERS = (
    "layers",
    "blocks",
    "encoder.layers",
    "encoder.layer",
    "encoder_layers",
    "transformer.layers",
    "transformer.encoder.layers",
    "vision_model.encoder.layers",
    "model.encoder.layers",
    "model.layers",
)
"""Where the layers of a vision tower are, in the architectures of transformers."""
_LAYER_LISTS = ("layers", "layer", "block", "blocks", "h")
"""What decoders call their layers, most of them `layers`."""
_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "layer_norm", "embedding_norm", "norm_f", "ln_f")
"""What decoders call the norm after their last layer."""


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside the wrappers of torch (compiled, parallel) and PEFT; any other model itself.

    Of Qwen-Omni it is the thinker: the part that reads and writes text.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
            model, "_fsdp_wrapped_module"
        ):
            inner = model.module
        elif callable(getattr(model, "get_base_model", None)):
            inner = model.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(model, "thinker", None), nn.Module):
            inner = model.thinker
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


def without_parallel(model: nn.Module) -> nn.Module:
    """The model inside of torch's parallel wrappers, which have neither `config` nor `generate`. PEFT's are left."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def text_config(model: nn.Module) -> Any:
    """The decoder's config: the language model's part in a multimodal model, the whole config in a text model."""
    return model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks in order, whose outputs are read and steered.

    They are found with `get_decoder()` and not by a search for the longest `ModuleList`, because in PaliGemma 2 3B that
    is the vision tower.

    Raises:
        UserError: for a model that has no such decoder, or not the number of layers that its config states, and for one
            of `lmms_steer.steering.support`.
    """
    if hasattr(model, "config"):
        check_config(model.config, f"a {type(model).__name__}")
    expected = decoder_shape(model.config)[0] if hasattr(model, "config") else None
    decoder = inner_decoder(model)
    layers = None if _has_encoder(model) else getattr(decoder, "layers", None)
    if layers is None and isinstance(decoder, nn.Module):
        layers = _outermost_layers(decoder)
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        actual = len(layers) if isinstance(layers, nn.ModuleList) else "no"
        raise UserError(
            f"cannot steer a {type(model).__name__}: its decoder has {actual} layers, but its config says {expected}"
        )
    return layers


def inner_decoder(model: nn.Module) -> Any:
    """The module that holds the decoder's layers and its final norm; None if there is no decoder.

    `get_decoder()` of some models (Llama 4, BLIP-2) is a language model with its head, which has the decoder inside;
    OPT has another one inside of that, and Florence-2 a whole encoder-decoder.
    """
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
    if _has_encoder(model):
        while (within := decoder.get_decoder()) is not decoder:
            decoder = within
        return decoder
    for name in ("model", "decoder"):
        inside = getattr(decoder, name, None)
        if not hasattr(decoder, "layers") and isinstance(inside, nn.Module):
            decoder = inside
    return decoder


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the decoder's last layer and the output embeddings.

    Raises:
        LookupError: if it has none of a known name.
    """
    decoder = inner_decoder(model)
    found = (getattr(decoder, name, None) for name in _FINAL_NORMS)
    norm = next((module for module in found if isinstance(module, nn.Module)), None)
    if norm is None:
        raise LookupError(f"a {type(decoder).__name__} has no final norm of a known name")
    return norm


def generating_part(model: nn.Module) -> nn.Module | None:
    """The language model inside of a model that generates for it; None for most models.

    The `generate` of BLIP-2 and Kosmos-2 encodes the images, and then calls the `generate` of this part.
    """
    model = unwrap(model)
    owner = next((owner for owner in type(model).__mro__ if "generate" in vars(owner)), GenerationMixin)
    parts = [] if owner is GenerationMixin else [child for child in model.children() if hasattr(child, "generate")]
    return parts[0] if parts else None


def _has_encoder(model: nn.Module) -> bool:
    return has_encoder(getattr(model, "config", None))


def _outermost_layers(decoder: nn.Module) -> nn.ModuleList | None:
    """The list of a decoder's layers, which is in none of them; None if there is not exactly one."""
    found = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] in _LAYER_LISTS
    }
    depth = min((name.count(".") for name in found), default=0)
    outermost = [module for name, module in found.items() if name.count(".") == depth]
    return outermost[0] if len(outermost) == 1 else None


def vision_layers(model: nn.Module) -> nn.ModuleList | None:
    """The layers of the vision tower in order; None where there are none at a known place.

    Their number must be the one that the config states: some towers consist of several.
    """
    shape = vision_shape(model.config)
    for name in (f"{root}{tower}.{inside}" for root in ("model.", "") for tower in _TOWERS for inside in _TOWER_LAYERS):
        found: Any = model
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.ModuleList) and shape is not None and len(found) == shape[0]:
            return found
    return None


def keeps_all_positions(model: nn.Module) -> Any:
    """The `logits_to_keep` for the last logits alone that runs every layer on every position.

    For a whole number, layers that share the keys and values of earlier ones (Gemma 4) run on the last positions only.
    """
    shared = any(shares_keys(layer) for layer in decoder_layers(model))
    return torch.tensor([-1]) if shared else 1


def kept_logits(model: nn.Module, count: Any) -> dict[str, Any]:
    """The argument of a forward call for the last logits alone; none for a model that always gives all (Donut)."""
    takes = "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
    return {"logits_to_keep": count} if takes else {}


def shares_keys(layer: nn.Module) -> bool:
    """Whether a layer attends with the keys and values of an earlier layer."""
    return bool(getattr(getattr(layer, "self_attn", None), "is_kv_shared_layer", False))


def model_facts(model: nn.Module) -> ModelFacts:
    """The facts that `resolve` needs about a loaded model of transformers, with the name that its config has."""
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return facts_of_config(model.config, name, _known_norms.get(model))


def remember_norms(model: nn.Module, norms: Norms) -> None:
    """Keep a loaded model's residual norms, so that `model_facts` knows them as long as the model exists."""
    _known_norms[model] = norms
    note_norms(model, norms)


def note_norms(model: nn.Module, norms: Norms) -> None:
    """Note that residual norms are this loaded model's, so that specs with them are accepted for it."""
    used = _used_norms.setdefault(unwrap(model), [])
    if norms not in used:
        used.append(norms)


def has_norms(model: nn.Module, norms: Norms | None) -> bool:
    """Whether residual norms were measured on this loaded model, or read from the cache for it."""
    return norms in _used_norms.get(unwrap(model), [])

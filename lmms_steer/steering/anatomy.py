"""Find the decoder layers of a transformers model, and the input ids that stand for images."""

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lmms_steer.errors import UserError
from lmms_steer.steering.resolve import ModelFacts, Norms

_known_norms: WeakKeyDictionary[nn.Module, Norms] = WeakKeyDictionary()
"""Loaded model ▸ its residual norms, for `scale=relative`."""


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside the wrappers of torch (compiled, parallel) and PEFT; any other model itself."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(
            model, "_fsdp_wrapped_module"
        ):
            inner = model.module
        elif callable(getattr(model, "get_base_model", None)):
            inner = model.get_base_model()  # type: ignore[operator]
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


def text_config(model: nn.Module) -> Any:
    """The decoder's config: the language model's part in a multimodal model, the whole config in a text model."""
    return model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks in order, whose outputs are read and steered.

    They are found with `get_decoder()` and not by a search for the longest `ModuleList`, because in PaliGemma 2 3B that
    is the vision tower.

    Raises:
        UserError: for a model that has no such decoder, or not the number of layers that its config states, and for an
            encoder-decoder model, whose `input_ids` are not its decoder's.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UserError(f"cannot steer a {type(model).__name__}: it has an encoder and a decoder")
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
    layers = getattr(decoder, "layers", None)
    expected = text_config(model).num_hidden_layers if hasattr(model, "config") else None
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        actual = len(layers) if isinstance(layers, nn.ModuleList) else "no"
        raise UserError(
            f"cannot steer a {type(model).__name__}: its decoder has {actual} layers, but its config says {expected}"
        )
    return layers


def image_token_ids(config: Any) -> tuple[int, ...]:
    """The input ids that are placeholders for image (or video) features; empty for a text model."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    values = (getattr(config, name, None) for name in names)
    return tuple(dict.fromkeys(value for value in values if isinstance(value, int)))


def model_facts(model: nn.Module, name: str | None = None) -> ModelFacts:
    """The facts that `resolve` needs about a loaded model.

    Args:
        model: a transformers model.
        name: the name it was loaded by; by default the one in its config.
    """
    config = text_config(model)
    model_name = name if name is not None else str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return ModelFacts(model_name, config.num_hidden_layers, config.hidden_size, _known_norms.get(model))


def remember_norms(model: nn.Module, norms: Norms) -> None:
    """Keep a loaded model's residual norms, so that `model_facts` knows them as long as the model exists."""
    _known_norms[model] = norms

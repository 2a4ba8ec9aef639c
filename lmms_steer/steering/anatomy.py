"""Where a transformers model keeps its decoder layers, and which input ids stand for images."""

from typing import Any

from torch import nn

from lmms_steer.errors import UserError
from lmms_steer.steering.resolve import ModelFacts


def text_config(model: nn.Module) -> Any:
    """The decoder's config: of the language model in an MLLM, or the config itself of a text model."""
    return model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The blocks whose outputs are read and steered, in order.

    `get_decoder()` rather than a search through the modules: the longest list of a PaliGemma 2 3B is its vision tower.

    Raises:
        UserError: for a model that has no such decoder, or another number of layers than its config says.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
    layers = getattr(decoder, "layers", None)
    expected = text_config(model).num_hidden_layers if hasattr(model, "config") else None
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        found = len(layers) if isinstance(layers, nn.ModuleList) else "no"
        raise UserError(f"cannot steer a {type(model).__name__}: its decoder has {found} layers, its config {expected}")
    return layers


def image_token_ids(config: Any) -> tuple[int, ...]:
    """The input ids that are placeholders for image (or video) features; empty for a text model."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    found = (getattr(config, name, None) for name in names)
    return tuple(dict.fromkeys(value for value in found if isinstance(value, int)))


def model_facts(model: nn.Module, name: str | None = None) -> ModelFacts:
    """What `resolve` must know of a loaded model; `name` where it was loaded by another name than its config says."""
    config = text_config(model)
    known_as = name if name is not None else str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return ModelFacts(known_as, config.num_hidden_layers, config.hidden_size)

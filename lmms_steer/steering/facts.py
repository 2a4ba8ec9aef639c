"""What specs are resolved against: a model's name, the shapes of its decoder and its vision tower, its norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_steer.steering.support import has_encoder

Norms = Mapping[int, Mapping[str, float]]
"""layer ▸ `image`, `text`, `both`, `last` ▸ mean norm of the residual there (`lmms_steer.steering.recording`)."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `resolve` needs to know about a model.

    Attributes:
        name: the name it was loaded by.
        n_layers, hidden_size: of its decoder.
        norms: its residual norms, where they were measured already.
        vision: layers and width of its vision tower; None for a model without one, or with one of another kind.
        revision: the commit of a Hub id; None where it is not known.
    """

    name: str
    n_layers: int
    hidden_size: int
    norms: Norms | None = None
    vision: tuple[int, int] | None = None
    revision: str | None = None


def facts_of_config(config: Any, name: str, norms: Norms | None = None, revision: str | None = None) -> ModelFacts:
    """The facts that a model's config states.

    Args:
        config: of the whole model.
        name: the name it was loaded by.
        norms: its residual norms, where they were measured already.
        revision: the commit of a Hub id, where it is known.
    """
    return ModelFacts(name, *decoder_shape(config), norms, vision_shape(config), revision)


def decoder_shape(config: Any) -> tuple[int, int]:
    """Layers and width of the decoder that a config describes."""
    text = config.get_text_config(decoder=True)
    # under `num_hidden_layers`, an encoder-decoder may count its encoder's
    names = ("decoder_layers", "num_decoder_layers") if has_encoder(config) else ()
    counts = (getattr(text, name, None) for name in (*names, "num_hidden_layers"))
    return next(count for count in counts if count is not None), text.hidden_size


def vision_shape(config: Any) -> tuple[int, int] | None:
    """Layers and width of the vision tower that a config describes; None where it does not."""
    vision = getattr(config, "vision_config", None)
    layers = [getattr(vision, name, None) for name in ("num_hidden_layers", "depth", "num_layers")]
    # in Qwen2-VL, hidden_size is the width of the language model
    widths = [getattr(vision, name, None) for name in ("embed_dim", "hidden_size")]
    n_layers, width = (next((v for v in values if isinstance(v, int)), None) for values in (layers, widths))
    return None if n_layers is None or width is None else (n_layers, width)

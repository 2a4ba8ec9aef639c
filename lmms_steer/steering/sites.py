"""Sites: the tensor of a layer that an intervention changes.

    residual    the layer's output: the residual stream after it
    input       the layer's input: the residual stream before it
    mlp         what the MLP adds to the residual stream
    attention   what the self-attention adds to the residual stream
    vision      the output of a layer of the vision tower
    vision_mlp  what the MLP adds in a layer of the vision tower

Some layers normalise the output of their MLP or self-attention before they add it (Gemma 2, GLM-4V). There the
normalised output is changed, because that is in the residual's units.

Another package adds a site with `register_site`, in a module that an entry point of the group `lmms_steer.sites` names.
This module imports no torch, so that specs can be checked without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lmms_steer.errors import UserError, first_line
from lmms_steer.registry import Registry

if TYPE_CHECKING:
    from torch import nn

SiteFunction = Callable[["nn.Module"], "nn.Module | None"]

DEFAULT_SITE = "residual"
_MLP = ("mlp", "feed_forward")
_ATTENTION = ("self_attn", "linear_attn")
_AFTER_MLP = (
    "post_feedforward_layernorm",
    "post_mlp_layernorm",
    "post_ffn_norm",
    "post_norm2",
    "mlp_sconv",
    "post_mlp_convolution",
)
"""What runs between the MLP and the addition, in layers that have it."""
_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_operator_norm", "post_norm1", "attn_sconv",
                    "post_attention_convolution")  # fmt: skip


_SCALES = {
    "mlp": ("residual_multiplier", "residual_scale", "mlp_beta_factor"),
    "attention": ("residual_multiplier", "residual_scale", "attn_beta_factor"),
}
"""Site ▸ what layers call the factor of what they add there (Granite, MiniCPM3, MiniMax)."""
_OTHER_SUMS = ("attn_residual_add_idx", "lambda_1")
"""What the layers have that add it otherwise: scaled by their depth (Beam), or as a learned mean (Dory)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor of a layer.

    Attributes:
        name: the value of `site=` in a spec.
        description: one line.
        function: a layer ▸ the module whose tensor is changed, or None if the layer has no such module.
        changes: whether that is the module's output or its first input, [batch, positions, width].
        tower: whose layers these are. In a vision tower every position is changed.
    """

    name: str
    description: str
    function: SiteFunction
    changes: Literal["output", "input"] = "output"
    tower: Literal["decoder", "vision"] = "decoder"

    def __post_init__(self) -> None:
        for key, known in (("changes", ("output", "input")), ("tower", ("decoder", "vision"))):
            if getattr(self, key) not in known:
                raise ValueError(f"site {self.name!r}: {key}={getattr(self, key)!r} is none of {', '.join(known)}")


sites: Registry[Site] = Registry("site", "lmms_steer.sites")
"""Every known site by its name."""


def register_site(
    name: str,
    *,
    description: str,
    changes: Literal["output", "input"] = "output",
    tower: Literal["decoder", "vision"] = "decoder",
) -> Callable[[SiteFunction], SiteFunction]:
    """Decorator that registers a function as a site and returns it unchanged; arguments as of `Site`.

    Raises:
        ValueError: for a name that is taken or not valid, or an unknown `changes` or `tower`.
    """

    def register(function: SiteFunction) -> SiteFunction:
        sites.add(name, Site(name, description, function, changes, tower))
        return function

    return register


@register_site("residual", description="the layer's output, the residual stream after it")
def residual(layer: "nn.Module") -> "nn.Module | None":
    """h' at the output of the layer."""
    return layer


@register_site("input", description="the layer's input, the residual stream before it", changes="input")
def layer_input(layer: "nn.Module") -> "nn.Module | None":
    """h' at the input of the layer (CAST, 2409.05907)."""
    return layer


@register_site("mlp", description="what the layer's MLP adds to the residual stream")
def mlp(layer: "nn.Module") -> "nn.Module | None":
    """m' for m = MLP(h), normalised if the layer normalises it, in h + m (VTI, 2410.15778)."""
    after = ("post_attention_layernorm",) if _normalises_after(layer) else _AFTER_MLP
    found = _last(layer, _MLP, after)
    # Pix2Struct's `mlp` also adds, and holds what is added
    return getattr(found, "DenseReluDense", found)


@register_site("attention", description="what the layer's self-attention adds to the residual stream")
def attention(layer: "nn.Module") -> "nn.Module | None":
    """a' for a = SelfAttention(h), normalised if the layer normalises it, in h + a."""
    if _normalises_after(layer):
        return _last(layer, _ATTENTION, ("input_layernorm",))
    # elsewhere the norm of this name stands before the MLP
    before_mlp = any(hasattr(layer, name) for name in ("post_feedforward_layernorm", "pre_mlp_layernorm"))
    return _last(layer, _ATTENTION, (*_AFTER_ATTENTION, *(("post_attention_layernorm",) if before_mlp else ())))


@register_site("vision", description="the output of a layer of the vision tower, at every patch", tower="vision")
def vision(layer: "nn.Module") -> "nn.Module | None":
    """h' at the output of a layer of the vision tower."""
    return layer


@register_site(
    "vision_mlp", description="what the MLP adds in a layer of the vision tower, at every patch", tower="vision"
)
def vision_mlp(layer: "nn.Module") -> "nn.Module | None":
    """m' for m = MLP(h), in h + m, in the vision tower (VTI, 2410.15778)."""
    return _last(layer, _MLP, _AFTER_MLP)


def find_module(site: Site, layers: "nn.ModuleList", layer: int) -> "nn.Module":
    """The module of a site in one of a model's layers.

    Raises:
        UserError: for a layer that has no such module, or does not add what the module returns as it is;
            for a function of a site that fails, or returns something else.
    """
    from torch.nn import Module

    try:
        module = site.function(layers[layer])
    except Exception as error:
        raise UserError(
            f"site={site.name}: its function failed at layer {layer}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if module is not None and not isinstance(module, Module):
        raise UserError(
            f"site={site.name}: its function returned a {type(module).__name__} for layer {layer}: expected a module of"
            " the layer, or None"
        )
    kind, names = type(layers[layer]).__name__, _SCALES.get(site.name, ())
    scale = next((found for name in names if (found := getattr(layers[layer], name, 1.0)) != 1.0), 1.0)
    if scale != 1.0:
        raise UserError(
            f"site={site.name}: the layers of this model, {kind}, add {scale:g} times what their {site.name} returns,"
            " so the vector would not be in the residual's units: use site=residual"
        )
    if names and any(hasattr(layers[layer], name) for name in _OTHER_SUMS):
        raise UserError(
            f"site={site.name}: the layers of this model, {kind}, do not simply add what their {site.name} returns, so"
            " the vector would not be in the residual's units: use site=residual"
        )
    if module is None:
        raise UserError(
            f"site={site.name}: layer {layer} of this model, a {kind}, has no module that is known as its {site.name}"
        )
    return module


def _normalises_after(layer: "nn.Module") -> bool:
    """Whether a layer's two norms stand after its attention and its MLP, as in some checkpoints of Molmo2."""
    return bool(getattr(layer, "norm_after", False))


def _last(layer: "nn.Module", names: tuple[str, ...], after: tuple[str, ...]) -> "nn.Module | None":
    """The module of one of the names, or of `after` in a layer that runs one of those next; None without the first."""
    children = dict(layer.named_children())
    found = [children[name] for name in (*after, *names) if name in children]
    return found[0] if any(name in children for name in names) else None

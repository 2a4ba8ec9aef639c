"""Check that an intervention and its vector fit a model: its layers, its width, its vision tower."""

from lmms_steer.errors import UserError
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.row_vectors import check_patches
from lmms_steer.steering.sites import sites
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.steering_vectors import SteeringVectors


def check_layers(intervention: Intervention, n_layers: int, model: str) -> None:
    """Check that a model has the layers of an intervention.

    Raises:
        UserError: with the layers that it has.
    """
    if not intervention.layer_numbers or intervention.layer_numbers[-1] >= n_layers:
        key = f"layer={intervention.layer}" if intervention.layers is None else f"layers={intervention.layers}"
        raise UserError(f"{key}: {model} has the layers 0-{n_layers - 1}")


def check_fit(intervention: Intervention, vector: SteeringVectors, model: ModelFacts) -> None:
    """Check that a model has the layers of an intervention and the width of its vector.

    Raises:
        UserError: if it has not, or the vector has no direction at a layer.
    """
    n_layers, width = shape_at(intervention, model)
    tower = "" if sites.get(intervention.site).tower == "decoder" else "'s vision tower"
    check_layers(intervention, n_layers, f"{short_name(model.name)}{tower}")
    check_width(intervention.vector, vector, width, f"{short_name(model.name)}{tower}")
    if vector.patches is not None:
        check_patches(intervention)
    for layer in intervention.layer_numbers:
        vector.check_norm(layer)


def shape_at(intervention: Intervention, model: ModelFacts) -> tuple[int, int]:
    """Layers and width of the part of the model that an intervention changes.

    Raises:
        UserError: for a vision tower that the model does not have.
    """
    if sites.get(intervention.site).tower == "decoder":
        return model.n_layers, model.hidden_size
    if model.vision is None:
        raise no_vision_tower(intervention.site, short_name(model.name))
    return model.vision


def no_vision_tower(site: str, model: str) -> UserError:
    """The error for a model whose vision tower cannot be steered."""
    return UserError(f"site={site}: {model} has no vision tower whose layers are at a known place")


def check_width(name: str, vector: SteeringVectors, width: int, model: str) -> None:
    """Check that a vector is as wide as what it is added to.

    Raises:
        UserError: with both widths.
    """
    if vector.hidden_size != width:
        raise UserError(
            f"vector {name!r} has width {vector.hidden_size}, but {model}'s hidden size is {width}: it was made from"
            f" another model ({vector.provenance.get('model', 'unknown')})"
        )

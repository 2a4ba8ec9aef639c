"""Warnings about a vector that was made from another model than the one to be steered is built on."""

from collections.abc import Mapping
from typing import Any

from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.weights import describe_source, model_source, recorded_sha256, same_weights


def other_model_warnings(name: str, provenance: Mapping[str, Any], model: str) -> list[str]:
    """Warn of a vector from a model that is not another model's text backbone, or from other weights of its name.

    Args:
        name: the vector's, for the message.
        provenance: the vector's.
        model: the name or path of the model to be steered.
    """
    source = provenance.get("model")
    if isinstance(source, str):
        source = short_name(source)
    # where the model has another name in the store (`extract --name`), its id is still its own
    sources = {source, short_name(str(provenance.get("model_id") or ""))}
    own = backbone_of(model)
    if short_name(model) in sources:
        return _other_weights(name, provenance, model)
    if own is not None and own in sources:
        return _other_weights(name, provenance, own)
    if source is None:
        return []
    expected = f"whose backbone is {own}" if own else "whose backbone is not known"
    return [f"vector {name!r} was made from {source}, not for {short_name(model)}, {expected}"]


def _other_weights(name: str, provenance: Mapping[str, Any], backbone: str) -> list[str]:
    """A warning if the hashes of the vector's and the backbone's weights are known and differ."""
    if recorded_sha256(provenance) is None:
        return []
    own = model_source(backbone)
    if same_weights(provenance, own) is not False:
        return []
    return [f"vector {name!r} was made from {describe_source(provenance)}, not from {describe_source(own)}"]

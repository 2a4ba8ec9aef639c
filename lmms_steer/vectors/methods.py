"""The registry of extraction methods, and how a vector's method is named.

A vector's method is one of

    METHOD           linear_probe
    METHOD-CONTROL   linear_probe-shuffled
    CONTROL          random: the control of the default method

The built-in methods are in `lmms_steer.extraction.methods`; other packages add theirs with `register_method` and an
entry point of the group `lmms_steer.methods`. Neither this module nor listing the methods imports torch: a recipe's
plan is read without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmms_steer.errors import unknown_name
from lmms_steer.registry import Registry
from lmms_steer.vectors.controls import CONTROLS

DEFAULT_METHOD = "mean_shift"


@dataclass(frozen=True, slots=True)
class ExtractionMethod:
    """A way to compute a concept's directions from activations.

    Attributes:
        name: as in specs, store names and `--method`.
        description: one plain line, for help texts and the docs.
        function: computes the directions; its type is `lmms_steer.extraction.methods.MethodFunction`.
        uses_sae: whether it reads a sparse autoencoder, which has to be there, and may have to be downloaded.
        uses_judge: whether it asks a judge about the autoencoder's features.
    """

    name: str
    description: str
    function: Callable[..., Any]
    uses_sae: bool = False
    uses_judge: bool = False


methods: Registry[ExtractionMethod] = Registry("method", "lmms_steer.methods", ("lmms_steer.extraction.methods",))


def split_method(name: str) -> tuple[str, str]:
    """Split the method of a vector into method and control: `linear_probe-shuffled` gives both.

    Args:
        name: in one of the forms of this module's docstring.

    Returns:
        The method and the control; "" for no control. A control alone belongs to the default method.

    Raises:
        UserError: for any other name.
    """
    if name in CONTROLS:
        return DEFAULT_METHOD, name
    method, _, control = name.partition("-")
    if method not in methods or (control and control not in CONTROLS):
        raise unknown_name("method", name, [*methods.names(), *CONTROLS])
    return method, control


def check_method(name: str) -> None:
    """Check that a vector's method exists, as `split_method` takes it.

    Raises:
        UserError: for an unknown method or control.
    """
    split_method(name)

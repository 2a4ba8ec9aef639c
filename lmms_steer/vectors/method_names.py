"""What a method may be called. Imports no torch: a recipe's plan reads it."""

from lmms_steer.errors import unknown_name
from lmms_steer.vectors.controls import CONTROLS

METHODS = ("mean_shift", "linear_probe", "pca", "sae", "sae_denoised")
DEFAULT_METHOD = "mean_shift"


def check_method(method: str) -> None:
    """`METHOD`, `METHOD-CONTROL` (`linear_probe-shuffled`) or a control alone (`random`: of the mean shift).

    Raises:
        UserError: for any other.
    """
    base, _, control = method.partition("-")
    if method not in CONTROLS and (base not in METHODS or (control and control not in CONTROLS)):
        raise unknown_name("method", method, [*METHODS, *CONTROLS])

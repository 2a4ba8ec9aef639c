"""Where the folders lie that ship beside the package: tasks, recipes, vectors."""

from importlib.resources import files
from pathlib import Path

_IN_A_CHECKOUT = {"recipe_files": "recipes"}


def shipped(name: str) -> Path:
    """`lmms_steer.NAME` of the installed package.

    In the folder of a checkout Python finds the checkout's package before an installed one, and only the installed one
    has these inside: there they lie beside it.
    """
    try:
        return Path(str(files(f"lmms_steer.{name}")))
    except ModuleNotFoundError:
        return Path(__file__).parent.parent / _IN_A_CHECKOUT.get(name, name)

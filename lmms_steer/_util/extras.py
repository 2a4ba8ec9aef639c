"""Packages that only some commands need, and the line that installs them.

The names of extras are those in setup.cfg (`options.extras_require`).
"""

from collections.abc import Iterable
from importlib.util import find_spec

from lmms_steer.errors import UserError

MODULES = {
    "search": ("optuna", "matplotlib"),
    "plots": ("matplotlib",),
    "recipes": ("pydantic", "submitit", "psutil", "optuna", "matplotlib"),
    "judge": ("openai",),
    "data": ("ijson",),
    "gguf": ("gguf",),
    "lm-eval": ("lm_eval",),
    "ray": ("ray",),
}
"""Extra ▸ the modules that it installs."""


def require_extra(extra: str, what: str) -> None:
    """Check that an extra is installed; nothing is imported.

    Args:
        extra: its name.
        what: what needs it, for the message: "a search".

    Raises:
        UserError: with the line that installs it.
    """
    missing = [module for module in MODULES[extra] if find_spec(module) is None]
    if missing:
        raise missing_extra(extra, what, missing)


def missing_extra(extra: str, what: str, modules: Iterable[str]) -> UserError:
    """The error for modules that an extra would install."""
    named = " and ".join(module.replace("_", "-") for module in modules)
    return UserError(f"{what} needs {named}, which is not installed: {install_line(extra)}")


def install_line(extra: str) -> str:
    """The commands that install an extra, in an environment and in a clone."""
    return f"pip install 'lmms-steer[{extra}]', or in a clone: pip install '.[{extra}]'"

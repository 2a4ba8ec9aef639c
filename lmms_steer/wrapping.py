"""Put a wrapper around a function of another package, once."""

from collections.abc import Callable
from typing import Any

_MARK = "_lmms_steer"


def wrap(owner: Any, name: str, wrapper: Callable[..., Any], kind: Callable[..., Any] | None = None) -> None:
    """Replace `owner.name`.

    Args:
        owner: a module or a class.
        name: of the function; nothing is done where this wrapper has replaced it before.
        wrapper: takes the function and gives what stands for it.
        kind: staticmethod or classmethod, where the function is one.
    """
    current = vars(owner)[name]
    plain = current.__func__ if kind is not None else current
    done: tuple[str, ...] = getattr(plain, _MARK, ())
    if wrapper.__qualname__ in done:
        return
    wrapped = wrapper(plain)
    setattr(wrapped, _MARK, (*done, wrapper.__qualname__))
    setattr(owner, name, kind(wrapped) if kind is not None else wrapped)

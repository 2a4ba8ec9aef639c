"""Know one version of a user's function from another, for caches and studies that keep what it did."""

import ast
import contextlib
import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from functools import partial
from types import CellType, CodeType
from typing import Any

HASHED_VALUES = 1 << 20
"""A larger array counts by its shape: a function may close over a whole model."""


def is_built_in(function: object) -> bool:
    """Whether a function is this package's, and not a user's or another package's."""
    return str(getattr(function, "__module__", "")).startswith("lmms_steer.")


def code_sha256(function: object) -> str:
    """Hash of a function's own code, its decorators and defaults included.

    Comments and the layout make no difference, and what the function calls does not count. The values that it closes
    over do, with the arguments of a `partial` and the attributes of an object. Call it soon after the function was
    defined: the code is read from its file.
    """
    bound = bound_values(function)
    return hashlib.sha256((_text(function) + (repr(bound) if bound else "")).encode()).hexdigest()


def _text(function: object) -> str:
    """The code of a function as text, without comments and layout."""
    while isinstance(function, partial):
        function = function.func
    named: Any = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        text = textwrap.dedent(inspect.getsource(named))
    except (OSError, TypeError):
        # typed into an interpreter, or not written in Python
        code = getattr(named, "__code__", None)
        return repr(_parts(code)) if code is not None else f"{named.__module__}.{named.__qualname__}"
    # the lines of a lambda are a part of a statement
    with contextlib.suppress(SyntaxError):
        return ast.unparse(ast.parse(text))
    return text


def bound_values(function: object, depth: int = 3) -> list[Any]:
    """What tells two functions of the same code apart; an empty list for a plain function.

    These are the arguments of a `partial`, default values, values that the function closes over, and the attributes of
    an object. Arrays and tensors up to `HASHED_VALUES` values count by content, functions by their code, other objects
    by their type and attributes.

    Args:
        function: or an object that can be called.
        depth: how many objects inside of one another are looked into; a function may close over itself.
    """
    found: list[Any] = []
    while isinstance(function, partial):
        found += [_described(one, depth) for one in (function.args, function.keywords)]
        function = function.func
    owner = getattr(function, "__self__", None) if inspect.ismethod(function) else None
    if owner is not None:
        found.append(_described(owner, depth))
    plain: Any = getattr(function, "__func__", function)
    if inspect.isfunction(plain):
        bound: list[Any] = [one for one in (plain.__defaults__, plain.__kwdefaults__) if one]
        bound += [_content(cell) for cell in plain.__closure__ or ()]
        found += [_described(one, depth) for one in bound]
    elif not inspect.isroutine(plain) and not inspect.isclass(plain):
        found.append(_described(plain, depth))
    return found


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # not assigned yet
        return None


def _described(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    name = type(value).__qualname__
    if depth == 0:
        return name
    if isinstance(value, Mapping):
        return name, [(str(key), _described(one, depth - 1)) for key, one in sorted(value.items(), key=str)]
    if isinstance(value, list | tuple | set | frozenset):
        ordered = value if isinstance(value, list | tuple) else sorted(value, key=repr)
        return name, [_described(one, depth - 1) for one in ordered]
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    if hasattr(value, "tobytes") and hasattr(value, "shape"):
        # the content of an array of objects would be their places in memory
        content = value.tobytes() if value.size <= HASHED_VALUES and value.dtype != object else b""
        return name, list(value.shape), hashlib.sha256(content).hexdigest()
    if inspect.isroutine(value) or inspect.isclass(value):
        return _text(value), bound_values(value, depth - 1)
    return name, [(key, _described(one, depth - 1)) for key, one in sorted(getattr(value, "__dict__", {}).items())]


def _parts(code: CodeType) -> list[Any]:
    """What compiled code does, without the place that it came from."""
    constants = [_parts(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, constants]

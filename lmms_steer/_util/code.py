"""Know one version of a user's function from another, for caches and studies that keep what it did."""

import ast
import contextlib
import hashlib
import inspect
import textwrap
from functools import partial
from types import CodeType
from typing import Any


def is_built_in(function: object) -> bool:
    """Whether a function is this package's, and not a user's or another package's."""
    return str(getattr(function, "__module__", "")).startswith("lmms_steer.")


def code_sha256(function: object) -> str:
    """Hash of a function's own code, its decorators and defaults included.

    Comments and the layout make no difference. What the function calls, and the values that it closes over, do not
    count. Call it soon after the function was defined: the code is read from its file.
    """
    while isinstance(function, partial):
        function = function.func
    named: Any = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        text = textwrap.dedent(inspect.getsource(named))
    except (OSError, TypeError):
        # typed into an interpreter, or not written in Python
        code = getattr(named, "__code__", None)
        text = repr(_parts(code)) if code is not None else f"{named.__module__}.{named.__qualname__}"
    else:
        # the lines of a lambda are a part of a statement
        with contextlib.suppress(SyntaxError):
            text = ast.unparse(ast.parse(text))
    return hashlib.sha256(text.encode()).hexdigest()


def _parts(code: CodeType) -> list[Any]:
    """What compiled code does, without the place that it came from."""
    constants = [_parts(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, constants]

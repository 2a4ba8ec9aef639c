"""An operation of the user's own, in two versions of its code."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from lmms_steer.steering.operations import operations, register_operation


def once(hidden: Tensor, vector: Any) -> Tensor:
    """Add the vector."""
    return hidden + vector.delta  # type: ignore[no-any-return]


def twice(hidden: Tensor, vector: Any) -> Tensor:
    """Add the vector twice."""
    return hidden + 2 * vector.delta  # type: ignore[no-any-return]


def register_as_mine(monkeypatch: pytest.MonkeyPatch, function: Callable[[Tensor, Any], Tensor]) -> None:
    """Register the function as the operation `mine`, in the place of an earlier one."""
    monkeypatch.setattr(operations, "_entries", {k: v for k, v in operations._entries.items() if k != "mine"})
    register_operation("mine", description="d", effect="e")(function)

"""KL budgets as users type them in the place of an alpha: `kl:0.1`."""

import math
from typing import TypeGuard

from lmms_steer.errors import UserError, shorten

BUDGET = "kl:"
"""A strength that begins with this is a budget: the mean KL, in nats, that its alpha is to reach."""


def read_budget(value: object, given_as: str = "alpha=") -> float:
    """A budget in nats, from `kl:0.1` or a number.

    Args:
        value: as typed.
        given_as: what the user wrote before it, for the message.

    Raises:
        UserError: for anything but a number above 0.
    """
    text = str(value).strip().removeprefix(BUDGET)
    try:
        budget = float(text)
    except ValueError:
        budget = math.nan
    if not 0 < budget < math.inf:
        raise UserError(f"{given_as}{shorten(str(value))}: expected a number of nats above 0, as in {given_as}kl:0.1")
    return budget


def is_budget(alpha: object) -> TypeGuard[str]:
    """Whether a strength is a damage, to which its alpha has to be found."""
    return isinstance(alpha, str) and alpha.strip().startswith(BUDGET)

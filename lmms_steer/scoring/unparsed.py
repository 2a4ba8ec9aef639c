"""When so many answers could not be read that a user must be warned."""

from collections.abc import Mapping

from lmms_steer._util.formatting import format_share

WARNED = 0.05
"""The share of unread answers from which a user is warned.

Steering changes scores by a few points. From one answer in twenty on, the unread answers, which count as wrong, are as
many as the answers that an effect of that size changes.
"""
UNTRUSTED = 0.2
"""The share from which scores and gains are not to be trusted.

From one answer in five on, a score says as much about the format of the answers as about what the model knows.
"""


def unparsed_warning(task: str, shares: Mapping[str, float]) -> str:
    """Warn that answers could not be read; "" if the shares are small or unknown.

    Args:
        task: its name.
        shares: system ▸ the share of its answers that could not be read, between 0 and 1; NaN where it is unknown. The
            name of an only system may be "".
    """
    large = {name: share for name, share in shares.items() if share >= WARNED}
    if not large:
        return ""
    listed = ", ".join(f"{format_share(share)}{f' ({name})' if name else ''}" for name, share in large.items())
    distrust = ", and do not trust scores and gains" if max(large.values()) >= UNTRUSTED else ""
    return f"{task}: {listed} of the answers could not be read and count as wrong: read some of them{distrust}"

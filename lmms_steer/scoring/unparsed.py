"""When so many answers name no choice, or several, that a user must be warned."""

from collections.abc import Mapping

from lmms_steer._util.formatting import format_share

WARNED = 0.05
"""The share of unparsed answers from which a user is warned.

Steering changes scores by a few points. From one answer in twenty on, the unparsed answers, which count as wrong, are
as many as the answers that an effect of that size changes.
"""
UNTRUSTED = 0.2
"""The share from which scores and gains are to be trusted only after some answers were read.

From one answer in five on, a score may say as much about the format of the answers as about what the model knows; or
the answers are clear, and name what is no choice.
"""


def unparsed_warning(task: str, shares: Mapping[str, float], how_to_read: str = "") -> str:
    """Warn of answers that name no choice or number, or several; "" if the shares are small or unknown.

    Args:
        task: its name.
        shares: system ▸ the share of its unparsed answers, between 0 and 1; NaN where it is unknown. The name of an
            only system may be "".
        how_to_read: how to get at the answers, where that is not known already.
    """
    large = {name: share for name, share in shares.items() if share >= WARNED}
    if not large:
        return ""
    listed = ", ".join(f"{format_share(share)}{f' ({name})' if name else ''}" for name, share in large.items())
    before = " before you trust scores and gains" if max(large.values()) >= UNTRUSTED else ""
    how = f" ({how_to_read})" if how_to_read else ""
    return (
        f"{task}: {listed} of the answers name no choice or number, or several, and count as wrong: read some of"
        f" them{before}{how}"
    )

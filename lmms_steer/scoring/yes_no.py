"""Read whether a text says yes or no."""

import math
import re

_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def says_yes(text: object, whole: bool = False) -> float:
    """1 for a text that begins with yes, 0 for one that begins with no, NaN for any other.

    Args:
        text: an answer or a label.
        whole: whether the word must be all of it.
    """
    text = text if isinstance(text, str) else ""
    match = _WORD.match(text)
    if match is None or (whole and text[match.end() :].strip(" .")):
        return math.nan
    return float(match[1].lower() == "yes")

"""Questions that are no evidence of their own: those that share an image, and those that another task asks too."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmms_steer.question_hash import hash_of, question_hash
from lmms_steer.search.asked import Asked
from lmms_steer.statistics.effects import Ints
from lmms_steer.statistics.flips import clusters


def images_of(asked: Sequence[Asked]) -> Ints | None:
    """The image of each question, 0 …; None where no two share one. A question that shows nothing stands alone."""
    # as on a board, what all are shown tells none of them apart
    if len({one.image for one in asked}) < 2:
        return None
    own = [str(one.image) if one.image else f"question {place}" for place, one in enumerate(asked)]
    return clusters(np.unique(own, return_inverse=True)[1])


def shuffled(asked: Sequence[Asked], seed: int) -> list[Asked]:
    """In an order drawn by lot, those that share an image one after another.

    A strategy looks at the first questions first; what it then sees of the others is to be of other images.
    """
    images = images_of(asked)
    together: dict[int, list[Asked]] = {}
    for place, question in enumerate(asked):
        together.setdefault(place if images is None else int(images[place]), []).append(question)
    drawn = list(together.values())
    random.Random(seed).shuffle(drawn)
    return [question for group in drawn for question in group]


def names_of(question: Asked) -> set[str]:
    """What knows a question again in another task: its images with its prompt, and with what its document says.

    Another prompt leaves the document as it is; another file of the same questions may number its documents otherwise.
    """
    return {question_hash(hash_of(told), question.image) for told in (question.text, _plain(question.doc))}


def _plain(value: Any) -> Any:
    """What of a document can be written down: no pictures."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float) else None

"""POPE with a part held out: lmms-eval's prompts and scores, on the questions about four images in five.

The images of the held-out fifth are in none of the tests, whichever of the three categories a question is of.
"""

import math
import zlib
from typing import TYPE_CHECKING, Any

from lmms_steer.data.documents import doc_to_visual
from lmms_steer.scoring.yes_no import says_yes

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 5
"""One image in so many is held out."""


def is_held_out(image: str) -> bool:
    """Whether an image is of the held-out part, by its name."""
    return zlib.crc32(image.encode()) % HELD_OUT == 0


def docs_select(dataset: "Dataset") -> "Dataset":
    """The questions to choose settings on."""
    return dataset.filter(is_held_out, input_columns="image_source")


def docs_test(dataset: "Dataset") -> "Dataset":
    """The questions to test on."""
    return dataset.filter(lambda image: not is_held_out(image), input_columns="image_source")


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """lmms-eval's prompt."""
    from lmms_eval.tasks.pope.utils import pope_doc_to_text

    return str(pope_doc_to_text(doc, lmms_eval_specific_kwargs or {}))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Score an answer as lmms-eval does: it is right if it is the label's word and nothing else.

    Returns:
        `acc`; `says_yes`, by the answer (lmms-eval's `pope_yes_ratio` counts the labels); `unparsed`, 1 for an answer
        that does not begin with yes or no; and what lmms-eval's F1 is computed from.
    """
    from lmms_eval.tasks.pope.utils import pope_process_results

    theirs = pope_process_results(doc, results)["pope_f1_score"]
    said = says_yes(results[0])
    return {
        "acc": theirs["score"],
        "score": theirs["score"],
        "unparsed": float(math.isnan(said)),
        "says_yes": float(said == 1),
        "pope_f1_score": theirs,
    }


def f1_score(results: list[dict[str, Any]]) -> float:
    """lmms-eval's F1, with yes as positive."""
    from lmms_eval.tasks.pope.utils import pope_aggregate_f1_score

    return float(pope_aggregate_f1_score(results))

"""What'sUp: four captions for an image, rotated as in the paper; accuracy of images, pairs and sets of four."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lmms_steer.data.documents import doc_to_visual, with_pre_prompt
from lmms_steer.data.paper_split import PARTS, paper_part
from lmms_steer.data.source import find_source, with_images
from lmms_steer.scoring.task_results import first_paragraph, score_choice, score_losses

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "ServiceNow/whatsup_controlled_images_{}_inference_test"
LETTERS = "ABCD"
PHRASES = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "front": ("in front of", "in-front of", "in-front_of"),
    "behind": ("behind",),
    "under": (" under ",),
    "on": (" on ",),
}
"""How captions express a relation; the first match counts."""
PAIRS = {
    "left": "sides",
    "right": "sides",
    "on": "heights",
    "under": "heights",
    "front": "depths",
    "behind": "depths",
}
"""A name for the pair of opposites that a relation belongs to."""


def __getattr__(name: str) -> Any:
    """`path_a`, `name_a`, `kwargs_a` and `docs_a` of set A; the same with `_b` of set B.

    `docs_a_select` and `docs_a_test` are the parts of the paper's split.
    """
    field, letter, part = (*name.split("_"), "", "")[:3]
    if letter not in ("a", "b") or field not in ("path", "name", "kwargs", "docs") or part not in ("", *PARTS):
        raise AttributeError(name)
    if field == "docs":
        # the captions are rotated by their row in the release, before the split
        return lambda dataset: paper_part(f"whatsup_{letter}", part)(documents(dataset, letter))
    source = find_source(f"whatsup_{letter}", f"Controlled_Images_{letter.upper()}", HUB.format(letter))
    return getattr(source, field)


def documents(dataset: "Dataset", letter: str) -> "Dataset":
    """Rows with the columns `image`, `captions`, `right` (the correct letter) and `row`, their place in the release.

    In the release the correct caption always comes first, so the captions of row i are rotated by i mod 4.
    """
    dataset = with_images(dataset, f"whatsup_{letter}")
    if "image_options" in dataset.column_names:
        dataset = dataset.rename_column("image_options", "image")
    captions, targets = dataset["caption_options"], dataset["TARGET"]
    rotated = [options[row % 4 :] + options[: row % 4] for row, options in enumerate(captions)]
    correct = [LETTERS[(target - row) % 4] for row, target in enumerate(targets)]
    dataset = dataset.remove_columns([name for name in dataset.column_names if name != "image"])
    rows = list(range(len(dataset)))
    return dataset.add_column("captions", rotated).add_column("right", correct).add_column("row", rows)


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    options = "\n".join(f"({letter}) {caption}" for letter, caption in zip(LETTERS, doc["captions"], strict=True))
    return with_pre_prompt(f"Please select the correct caption for the image:\n{options}", lmms_eval_specific_kwargs)


def doc_to_target(doc: dict[str, Any]) -> str:
    return str(doc["right"])


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return list(LETTERS)[: len(doc["captions"])]


def doc_to_index(doc: dict[str, Any]) -> int:
    return LETTERS.index(doc["right"])


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """As `score_choice`, with what `pairs` and `sets` need: the names of the question's pair and set."""
    whole, row = results[0], doc["row"]
    answer = first_paragraph(whole)
    scores = score_choice(answer, doc["captions"], doc["right"], benchmark="WhatsUp", row_index=row, whole=whole)
    # the four images of the same two things have the same four captions
    image_set = "|".join(sorted(doc["captions"]))
    pair = PAIRS.get(relation(doc["captions"][doc_to_index(doc)]), "")
    return {**scores, "pair_acc": [f"{image_set}|{pair}", scores["acc"]], "set_acc": [image_set, scores["acc"]]}


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, doc_to_index(doc))


def relation(caption: str) -> str:
    """The relation that a caption expresses, or the caption itself if it is none of `PHRASES`."""
    for name, phrases in PHRASES.items():
        if any(phrase in caption for phrase in phrases):
            return name
    return caption


def pairs(values: list[list[Any]]) -> float:
    """The share of pairs of opposite images of the same things (left and right, …) with both answers correct."""
    return _share_all_correct(values, 2)


def sets(values: list[list[Any]]) -> float:
    """The share of sets of four images of the same things with all answers correct."""
    return _share_all_correct(values, 4)


def _share_all_correct(values: list[list[Any]], size: int) -> float:
    groups: dict[str, list[float]] = defaultdict(list)
    for group, correct in values:
        groups[group].append(correct)
    # --limit may cut a group; an incomplete one does not count
    complete = [all(correct) for correct in groups.values() if len(correct) == size]
    return sum(complete) / len(complete) if complete else float("nan")

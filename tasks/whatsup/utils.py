"""What'sUp: four captions, the right one first in the release and rotated here; accuracy of images, pairs and sets."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lmms_steer.data.source import find_source, with_pictures
from lmms_steer.scoring.task_results import score_choice, score_losses

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "ServiceNow/whatsup_controlled_images_{}_inference_test"
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "front": ("in front of", "in-front of", "in-front_of"),
    "behind": ("behind",),
    "under": (" under ",),
    "on": (" on ",),
}
OPPOSITES = {
    "left": "sides",
    "right": "sides",
    "on": "heights",
    "under": "heights",
    "front": "depths",
    "behind": "depths",
}


def __getattr__(name: str) -> Any:
    """`path_a`, `name_a`, `kwargs_a`, `docs_a`, and the same of B."""
    field, _, letter = name.partition("_")
    if letter not in ("a", "b") or field not in ("path", "name", "kwargs", "docs"):
        raise AttributeError(name)
    if field == "docs":
        return lambda dataset: documents(dataset, letter)
    found = find_source(f"whatsup_{letter}", f"Controlled_Images_{letter.upper()}", HUB.format(letter))
    return getattr(found, field)


def documents(dataset: "Dataset", letter: str) -> "Dataset":
    dataset = with_pictures(dataset, f"whatsup_{letter}")
    if "image_options" in dataset.column_names:
        dataset = dataset.rename_column("image_options", "image")
    captions, targets = dataset["caption_options"], dataset["TARGET"]
    rotated = [options[i % 4 :] + options[: i % 4] for i, options in enumerate(captions)]
    right = ["ABCD"[(target - i) % 4] for i, target in enumerate(targets)]
    dataset = dataset.remove_columns([name for name in dataset.column_names if name != "image"])
    return dataset.add_column("captions", rotated).add_column("right", right)


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    options = "\n".join(f"({letter}) {caption}" for letter, caption in zip("ABCD", doc["captions"], strict=True))
    pre = (lmms_eval_specific_kwargs or {}).get("pre_prompt", "")
    return f"{pre}Please select the correct caption for the image:\n{options}"


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["right"]


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return list("ABCD")[: len(doc["captions"])]


def doc_to_index(doc: dict[str, Any]) -> int:
    return "ABCD".index(doc["right"])


def relation(caption: str) -> str:
    """Which relation a caption tells."""
    for name, phrases in RELATIONS.items():
        if any(phrase in caption for phrase in phrases):
            return name
    return caption


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    scored = score_choice(results[0], doc["captions"], doc["right"])
    # the four images of two things have the same four captions
    group = "|".join(sorted(doc["captions"]))
    pair = OPPOSITES.get(relation(doc["captions"]["ABCD".index(doc["right"])]), "")
    return {**scored, "pair_acc": [f"{group}|{pair}", scored["acc"]], "set_acc": [group, scored["acc"]]}


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, doc_to_index(doc))


def pairs(values: list[list[Any]]) -> float:
    """The share of pairs of opposite images (left and right, …) of the same things that are both right."""
    return _whole(values, 2)


def sets(values: list[list[Any]]) -> float:
    """The share of sets of four images of the same things that are all right."""
    return _whole(values, 4)


def _whole(values: list[list[Any]], size: int) -> float:
    groups: dict[str, list[float]] = defaultdict(list)
    for group, right in values:
        groups[group].append(right)
    # a group that --limit has cut is none
    full = [all(right) for right in groups.values() if len(right) == size]
    return sum(full) / len(full) if full else float("nan")

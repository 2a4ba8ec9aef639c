"""VSR: is the caption true of the photograph? With the splits and the prompt of the paper's released code."""

from functools import partial
from typing import TYPE_CHECKING, Any

from lmms_steer.data.benchmarks.vsr import HUBS, SUBSET_RELATIONS
from lmms_steer.data.documents import with_pre_prompt
from lmms_steer.data.linked_images import linked_image
from lmms_steer.data.paper_split import PARTS, paper_part
from lmms_steer.data.source import find_source, with_images
from lmms_steer.scoring.task_results import first_paragraph, score_choice

if TYPE_CHECKING:
    from datasets import Dataset

CHOICES = ("Yes", "No")


def __getattr__(name: str) -> Any:
    """`path_random`, `name_random`, `kwargs_random` and `docs_random_PART`; the same of `zeroshot`.

    `random_subset` and `zeroshot_subset` are the training questions with eight of the relations.
    """
    field, _, rest = name.partition("_")
    which, _, part = rest.rpartition("_") if field == "docs" else (rest, "", "")
    copy, subset = f"vsr_{which.removesuffix('_subset')}", which.endswith("_subset")
    if copy not in HUBS or field not in ("path", "name", "kwargs", "docs") or (field == "docs" and part not in PARTS):
        raise AttributeError(name)
    if field == "docs":
        return partial(_documents, copy, subset, part)
    return getattr(find_source(copy, "train" if subset else "test", HUBS[copy]), field)


def _documents(copy: str, subset: bool, part: str, dataset: "Dataset") -> "Dataset":
    if subset:
        of_subset = [place for place, name in enumerate(dataset["relation"]) if name in SUBSET_RELATIONS]
        dataset = dataset.select(of_subset)
    return paper_part(f"{copy}{'_subset' * subset}", part)(with_images(dataset, copy))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    # the Hub's rows have an image's file name there, and a link
    image = linked_image(doc["image_link"]) if isinstance(doc["image"], str) else doc["image"]
    return [image.convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    question = f"Does the caption describe the image correctly?\n{doc['caption']}\n(A) Yes\n(B) No"
    return with_pre_prompt(question, lmms_eval_specific_kwargs)


def doc_to_target(doc: dict[str, Any]) -> str:
    return "A" if doc["label"] == 1 else "B"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    whole = results[0]
    return score_choice(first_paragraph(whole), CHOICES, doc_to_target(doc), benchmark="VSR", whole=whole)

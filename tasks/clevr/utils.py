"""CLEVR and Super-CLEVR.

* `count_…`: the paper's counting questions, a dataset on the Hub;
* the other functions: questions of all kinds from the official releases.
"""

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lmms_steer.data.documents import doc_to_text, doc_to_visual, with_pre_prompt
from lmms_steer.data.paper_split import PARTS, paper_part
from lmms_steer.data.source import Source, find_source, with_images
from lmms_steer.errors import UserError
from lmms_steer.scoring.choice import parse_text
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.task_results import first_paragraph, other_reading, score_losses, score_number

if TYPE_CHECKING:
    from datasets import Dataset

COUNT_HUB = "BUAADreamer/clevr_count_70k"
COUNT_TASKS = {"train": "clevr_count", "test": "superclevr_count"}
COUNT_FILES = {"train": "data/train-00000-of-00021.parquet", "test": "data/test-00000-of-00001.parquet"}
"""The files that the tasks read, 497 and 56 MB. The first has over 3000 of the 70000 training questions."""
PAPER_QUESTIONS = 500
NUMBERS = [str(number) for number in range(11)]
ANSWERS = (
    ["yes", "no"],
    ["large", "small"],
    ["rubber", "metal"],
    ["cube", "sphere", "cylinder"],
    ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"],
)
"""CLEVR's answers that are not numbers, grouped by attribute (properties.json of CLEVR's generator)."""


def __getattr__(name: str) -> Any:
    """`path_…`, `name_…` and `kwargs_…` of the data, and `docs_…`.

    After the underscore: `train` and `test` of the counting questions, `clevr`, `superclevr`. `docs_…` exists for the
    last two, and for the parts of the paper's split of the others: `docs_train_select`, `docs_train_test`, ….
    """
    field, _, data = name.partition("_")
    split, _, part = data.partition("_")
    if field == "docs" and split in ("train", "test") and part in PARTS:
        return lambda dataset: paper_part(COUNT_TASKS[split], part)(first_500(dataset))
    if field == "docs" and data in ("clevr", "superclevr"):
        return lambda dataset: documents(dataset, data)
    if field not in ("path", "name", "kwargs") or data not in ("train", "test", "clevr", "superclevr"):
        raise AttributeError(name)
    if data in ("train", "test"):
        return getattr(_count_source(data), field)
    return getattr(find_source(data, "val" if data == "clevr" else "test", None), field)


def documents(dataset: "Dataset", copy: str) -> "Dataset":
    """Rows with images, and with the column `names`: all answers that are neither numbers nor in `ANSWERS`.

    In Super-CLEVR these are the names of vehicles.
    """
    listed = {answer for group in ANSWERS for answer in group}
    names = sorted({answer for answer in dataset["answer"] if not answer.isdecimal() and answer not in listed})
    return with_images(dataset, copy).add_column("names", [names] * len(dataset))


def first_500(dataset: "Dataset") -> "Dataset":
    """The questions that the paper uses as CLEVR: the first 500, or those of a local copy that has fewer.

    Raises:
        UserError: if the dataset on the Hub has fewer.
    """
    if len(dataset) < PAPER_QUESTIONS and _count_source("train").path != "parquet":
        raise UserError(
            f"{COUNT_HUB} has changed: {COUNT_FILES['train']} has {len(dataset)} questions, the paper's are its first"
            f" {PAPER_QUESTIONS}"
        )
    return dataset.select(range(min(PAPER_QUESTIONS, len(dataset))))


def _count_source(split: str) -> Source:
    return find_source("clevr_count", split, COUNT_HUB, hub_files=COUNT_FILES[split])


def count_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [image.convert("RGB") for image in doc["images"]]


def count_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    # not stripped, as in the paper's released code
    return with_pre_prompt(doc["problem"].replace("<image>", ""), lmms_eval_specific_kwargs)


def count_to_target(doc: dict[str, Any]) -> str:
    return str(int(float(re.sub(r"</?answer>", "", doc["answer"]))))


def count_to_choice(doc: dict[str, Any]) -> list[str]:
    return _number_choices(count_to_target(doc))


def count_to_index(doc: dict[str, Any]) -> int:
    return count_to_choice(doc).index(count_to_target(doc))


def count_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    return score_number(first_paragraph(results[0]), int(count_to_target(doc)), whole=results[0])


def count_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, count_to_index(doc), count_to_choice(doc))


def doc_to_target(doc: dict[str, Any]) -> str:
    return str(doc["answer"])


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """The possible answers to a question of this kind."""
    answer = doc["answer"]
    return _number_choices(answer) if answer.isdecimal() else _word_choices(doc)


def doc_to_index(doc: dict[str, Any]) -> int:
    return doc_to_choice(doc).index(doc["answer"])


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Accuracy, also under the name of the question's kind, and with its family for `by_family`."""
    correct_answer = doc["answer"]
    parsed, strict = (_parse(results[0], doc, reading) for reading in (False, True))
    correct = float(parsed == correct_answer)
    scores = {"acc": correct, "score": correct, "unparsed": float(not parsed), "parsed": parsed}
    return {
        **scores,
        **other_reading(strict, correct_answer, "strict"),
        f"acc_{doc['kind']}": correct,
        "acc_family": [doc["family"], correct],
        # logged, because the names follow from all questions
        **({"choices": doc["names"]} if _asks_for_a_name(correct_answer) else {}),
    }


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, doc_to_index(doc), doc_to_choice(doc))


def by_family(values: list[list[Any]]) -> float:
    """The mean of the question families' accuracies."""
    families: dict[int, list[float]] = defaultdict(list)
    for family, correct in values:
        families[family].append(correct)
    return sum(sum(values) / len(values) for values in families.values()) / len(families)


def _number_choices(correct_answer: str) -> list[str]:
    return NUMBERS if correct_answer in NUMBERS else [*NUMBERS, correct_answer]


def _word_choices(doc: dict[str, Any]) -> list[str]:
    return (
        doc["names"] if _asks_for_a_name(doc["answer"]) else next(group for group in ANSWERS if doc["answer"] in group)
    )


def _asks_for_a_name(correct_answer: str) -> bool:
    return not correct_answer.isdecimal() and not any(correct_answer in group for group in ANSWERS)


def _parse(answer: str, doc: dict[str, Any], strict: bool) -> str:
    if doc["answer"].isdecimal():
        number = parse_number(answer, strict)
        return "" if number is None else str(number)
    return parse_text(re.sub(r"\b([Gg])rey\b", r"\1ray", answer), _word_choices(doc), strict)

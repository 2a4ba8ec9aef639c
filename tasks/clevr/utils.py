"""CLEVR and Super-CLEVR: the paper's counting questions (a set on the Hub), and the official releases' questions."""

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lmms_steer.data.source import find_source, with_pictures
from lmms_steer.scoring.choice import parse_choice
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.task_results import score_losses, score_number

if TYPE_CHECKING:
    from datasets import Dataset

COUNTING = "BUAADreamer/clevr_count_70k"
NUMBERS = [str(number) for number in range(11)]
ANSWERS = (
    ["yes", "no"],
    ["large", "small"],
    ["rubber", "metal"],
    ["cube", "sphere", "cylinder"],
    ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"],
)
"""CLEVR's answers that are no numbers, by what they are (the generator's properties.json)."""


def __getattr__(name: str) -> Any:
    """`path_SET`, `name_SET`, `kwargs_SET`: train and test of the counting set, clevr, superclevr; `docs_SET`."""
    field, _, which = name.partition("_")
    if field == "docs" and which in ("clevr", "superclevr"):
        return lambda dataset: _documents(dataset, which)
    if field not in ("path", "name", "kwargs") or which not in ("train", "test", "clevr", "superclevr"):
        raise AttributeError(name)
    if which in ("train", "test"):
        return getattr(find_source("clevr_count", which, COUNTING), field)
    return getattr(find_source(which, "val" if which == "clevr" else "test", None), field)


def _documents(dataset: "Dataset", which: str) -> "Dataset":
    """With pictures, and with the names among the answers: what an answer that is no number or CLEVR word can be."""
    known = {word for words in ANSWERS for word in words}
    names = sorted({answer for answer in dataset["answer"] if not answer.isdecimal() and answer not in known})
    return with_pictures(dataset, which).add_column("names", [names] * len(dataset))


def first_500(dataset: "Dataset") -> "Dataset":
    """The paper's CLEVR."""
    return dataset.select(range(min(500, len(dataset))))


def count_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [picture.convert("RGB") for picture in doc["images"]]


def count_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    question = doc["problem"].replace("<image>", "").strip()
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{question}"


def count_to_target(doc: dict[str, Any]) -> str:
    return str(int(float(re.sub(r"</?answer>", "", doc["answer"]))))


def count_to_choice(doc: dict[str, Any]) -> list[str]:
    right = count_to_target(doc)
    return NUMBERS if right in NUMBERS else [*NUMBERS, right]


def count_to_index(doc: dict[str, Any]) -> int:
    return count_to_choice(doc).index(count_to_target(doc))


def count_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    return score_number(results[0], int(count_to_target(doc)))


def count_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, count_to_index(doc), count_to_choice(doc))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{doc['question']}"


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["answer"]


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """What could be the answer to a question of this kind."""
    answer = doc["answer"]
    if answer.isdecimal():
        return NUMBERS if answer in NUMBERS else [*NUMBERS, answer]
    return next((words for words in ANSWERS if answer in words), doc["names"])


def doc_to_index(doc: dict[str, Any]) -> int:
    return doc_to_choice(doc).index(doc["answer"])


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    right = doc["answer"]
    if right.isdecimal():
        number = parse_number(results[0])
        read = "" if number is None else str(number)
    else:
        read = _word(results[0], right)
    hit = float(read == right)
    scored = {"acc": hit, "score": hit, "unparsed": float(not read), "parsed": read}
    return {**scored, f"acc_{doc['kind']}": hit, "acc_family": [doc["family"], hit]}


def _word(answer: str, right: str) -> str:
    for words in ANSWERS:
        if right in words:
            # a bare letter is no answer to a question without lettered choices
            letter = "" if re.fullmatch(r"\W*[A-Za-z]\W*", answer) else parse_choice(answer, words)
            return words["ABCDEFGH".index(letter)] if letter else ""
    # Super-CLEVR asks for vehicles and parts too: their names are compared as they stand
    said = " ".join(re.sub(r"[^\w\s-]", " ", answer.lower()).split())
    return right if re.fullmatch(rf"(?:an?|the)?\s*{re.escape(right.lower())}", said) else said[:40]


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return score_losses(results, doc_to_index(doc), doc_to_choice(doc))


def by_family(values: list[list[Any]]) -> float:
    """The mean over question families of each family's accuracy."""
    families: dict[int, list[float]] = defaultdict(list)
    for family, hit in values:
        families[family].append(hit)
    return sum(sum(hits) / len(hits) for hits in families.values()) / len(families)

"""The functions that a task's YAML names: prompts and targets of multiple-choice questions, and scores of answers.

The score functions return these keys, which lmms-eval logs for each document; for captions and other answers in words
only those that make sense:

| key | |
|---|---|
| acc | 1 if the answer that was read is correct, else 0; by the lenient reading, except in `process_results_strict` |
| score | the same, under the name that lmms-eval's paired test (`--baseline`) looks for |
| unparsed | 1 if no answer could be read, else 0; by the reading of `acc` |
| acc_strict, unparsed_strict | the same by the strict reading, for generated answers (see `parse_choice`) |
| acc_lenient, unparsed_lenient | the same by the lenient reading, where `acc` is strict |
| acc_paper | the accuracy by the scorer of the paper's released code |
| parsed | the letter or the number that was read; "" if none |
| accepted | all answers that count as correct, where there are several |
| letters | the probability of each choice: 1 for the one that was read, or from the choices' log-likelihoods |

The `doc_to_…` and `process_…` functions are for rows like CV-Bench's and BLINK's: a list of choices, and the answer as
`(B)`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lmms_steer.scoring import paper
from lmms_steer.scoring.choice import LETTERS, parse_choice
from lmms_steer.scoring.number import parse_number


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """Return the prompt: the stored one, or question and choices in CV-Bench's wording.

    Args:
        doc: the row.
        lmms_eval_specific_kwargs: the task's settings for the model; `pre_prompt` is put before the prompt.
    """
    prompt = doc.get("prompt") or _cvbench_prompt(doc)
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{prompt}"


def doc_to_target(doc: dict[str, Any]) -> str:
    """Return the letter of the correct choice."""
    return str(doc["answer"]).strip("()")


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """Return the letters of the choices."""
    return list(LETTERS[: len(doc["choices"])])


def doc_to_index(doc: dict[str, Any]) -> int:
    """Return the index of the correct choice."""
    return LETTERS.index(doc_to_target(doc))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Score a generated answer (see `score_choice`)."""
    return score_choice(results[0], doc["choices"], doc_to_target(doc))


def process_results_strict(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Score a generated answer by the strict reading, and by the lenient one as `acc_lenient`."""
    return score_choice(results[0], doc["choices"], doc_to_target(doc), strict=True)


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """Score the log-likelihoods of the letters (see `score_losses`)."""
    return score_losses(results, doc_to_index(doc))


def score_choice(
    answer: str,
    choices: Sequence[str],
    right: str,
    strict: bool = False,
    benchmark: str = "CV-Bench",
    row_index: int = 0,
    whole: str | None = None,
) -> dict[str, Any]:
    """Score a generated answer to a multiple-choice question.

    Args:
        answer: the model's answer.
        choices: the texts of the choices, the first being A.
        right: the letter of the correct choice.
        strict: whether `acc` is by the strict reading.
        benchmark, row_index: for `acc_paper`, as in `lmms_steer.scoring.paper.is_right`.
        whole: what `acc_paper` scores, where `answer` is only its first paragraph; None for `answer`.
    """
    parsed, other = (parse_choice(answer, choices, reading) for reading in (strict, not strict))
    acc_paper = paper.is_right(benchmark, answer if whole is None else whole, choices, right, row_index)
    scores = {**_scores(parsed, right), **other_reading(other, right, "lenient" if strict else "strict")}
    return {**scores, "acc_paper": acc_paper, "letters": {parsed: 1.0} if parsed else {}}


def score_number(answer: str, right: int, whole: str | None = None) -> dict[str, Any]:
    """Score a generated answer to a question that asks for a number.

    Args:
        answer: the model's answer.
        right: the correct number.
        whole: as for `score_choice`.
    """
    parsed, strict = (_text(parse_number(answer, strict)) for strict in (False, True))
    acc_paper = paper.is_right("CLEVR", answer if whole is None else whole, (), str(right))
    return {**_scores(parsed, str(right)), **other_reading(strict, str(right), "strict"), "acc_paper": acc_paper}


def score_text(
    benchmark: str, whole: str, score: Callable[[str], float], accepted: Sequence[str], gold: str = ""
) -> dict[str, Any]:
    """Score an answer in words. There is no strict reading, and only an empty answer is `unparsed`.

    Args:
        benchmark: for `acc_paper`, as in `lmms_steer.scoring.paper.is_right`.
        whole: the model's answer.
        score: gives `acc`, from 0 to 1, of the answer's first paragraph.
        accepted: the answers that `acc_paper` compares with, where there are several.
        gold: the correct answer.
    """
    answer = first_paragraph(whole).strip()
    acc = float(score(answer)) if answer else 0.0
    acc_paper = paper.is_right(benchmark, whole, accepted, gold)
    return {"acc": acc, "score": acc, "unparsed": float(not answer), "parsed": answer[:40], "acc_paper": acc_paper}


def first_paragraph(answer: str) -> str:
    """The answer up to the first empty line, where lmms-eval ends answers unless a task says otherwise.

    An answer may begin with empty lines, and one may follow `Answer:`. The tasks that ship generate on, because
    `acc_paper` is of the whole text, but read choices and numbers from this.
    """
    first, *others = answer.strip().split("\n\n")
    return f"{first} {others[0]}" if others and first.rstrip("* ").endswith(":") else first


def score_losses(responses: Sequence[Any], right: int, names: Sequence[str] = LETTERS) -> dict[str, Any]:
    """Score a multiple-choice question by the losses of its choices; the lowest is the answer.

    Nothing is read where the model overflows, so that a loss is no number.

    Args:
        responses: (loss, is it greedy) of each choice, as lmms-eval passes them: pairs, or the text of a pair.
        right: the index of the correct choice.
        names: the name of each choice.
    """
    losses = [_loss(response) for response in responses]
    if not all(map(math.isfinite, losses)):
        return {**_scores("", names[right]), "letters": {}}
    best = min(range(len(losses)), key=losses.__getitem__)
    weights = [math.exp(losses[best] - loss) for loss in losses]
    shares = {name: round(weight / sum(weights), 6) for name, weight in zip(names, weights, strict=False)}
    return {**_scores(names[best], names[right]), "letters": shares}


def _scores(parsed: str, right: str) -> dict[str, Any]:
    correct = float(parsed == right)
    return {"acc": correct, "score": correct, "unparsed": float(not parsed), "parsed": parsed}


def other_reading(parsed: str, right: str, name: str) -> dict[str, float]:
    """Score an answer by another reading than that of `acc`.

    Args:
        parsed: what was read; "" if nothing.
        right: the correct answer.
        name: strict or lenient.
    """
    return {f"acc_{name}": float(parsed == right), f"unparsed_{name}": float(not parsed)}


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _loss(response: Any) -> float:
    # lmms-eval 0.7.3 turns the pair that its own models return into text: "(0.5, True)", "(nan, False)"
    return float(response.strip("()").split(",")[0] if isinstance(response, str) else response[0])


def _cvbench_prompt(doc: dict[str, Any]) -> str:
    choices = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=False))
    return f"{doc['question']} Select from the following choices.\n{choices}"

"""What a task's `process_results` gives lmms-eval for one document: the same keys for every benchmark.

| key | |
|---|---|
| acc | 1 where the answer that was read is the right one |
| score | the same, under the name that lmms-eval's paired test (`--baseline`) looks for |
| unparsed | 1 where no answer could be read |
| acc_paper | as the paper's released code scores |
| parsed | the letter or the number that was read, "" where there is none |
| letters | how likely each choice is: one for the one that was read, or from the choices' log-likelihoods |

What tasks share whose rows are CV-Bench's and BLINK's: lettered choices, the answer as `(B)`.
"""

import ast
import math
from collections.abc import Sequence
from typing import Any

from lmms_steer.scoring.choice import LETTERS, parse_choice
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.paper import paper_choice, paper_number


def score_choice(answer: str, choices: Sequence[str], right: str) -> dict[str, Any]:
    """A generated answer to a question with choices; `right`: its letter."""
    read = parse_choice(answer, choices)
    paper = float(paper_choice(answer, choices) == right)
    return {**_of(read, right), "acc_paper": paper, "letters": {read: 1.0} if read else {}}


def score_number(answer: str, right: int) -> dict[str, Any]:
    """A generated answer to a question for a number."""
    read = parse_number(answer)
    paper = float(paper_number(answer) == right)
    return {**_of("" if read is None else str(read), str(right)), "acc_paper": paper}


def score_losses(responses: Sequence[Any], right: int, names: Sequence[str] = LETTERS) -> dict[str, Any]:
    """The choices' losses, (loss, is it greedy) each, as lmms-eval hands them over: as pairs or as their text.

    Args:
        responses: one a choice.
        right: the place of the right choice.
        names: what to call the choices.
    """
    losses = [_loss(response) for response in responses]
    best = min(range(len(losses)), key=losses.__getitem__)
    least = losses[best]
    weights = [math.exp(least - loss) for loss in losses]
    shares = {name: round(weight / sum(weights), 6) for name, weight in zip(names, weights, strict=False)}
    return {**_of(names[best], names[right]), "letters": shares}


def _of(read: str, right: str) -> dict[str, Any]:
    hit = float(read == right)
    return {"acc": hit, "score": hit, "unparsed": float(not read), "parsed": read}


def _loss(response: Any) -> float:
    # lmms-eval 0.7.3 makes a text of the pair that its own models return
    pair = ast.literal_eval(response) if isinstance(response, str) else response
    return float(pair[0])


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The prompt as it is stored, else question and choices in CV-Bench's words; behind the model's own opening."""
    prompt = doc["prompt"] if "prompt" in doc else _written_prompt(doc)
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{prompt}"


def _written_prompt(doc: dict[str, Any]) -> str:
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=False))
    return f"{doc['question']} Select from the following choices.\n{listed}"


def doc_to_target(doc: dict[str, Any]) -> str:
    """The right letter."""
    return str(doc["answer"]).strip("()")


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """The letters that there are."""
    return list(LETTERS[: len(doc["choices"])])


def doc_to_index(doc: dict[str, Any]) -> int:
    """The place of the right letter."""
    return LETTERS.index(doc_to_target(doc))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """A generated answer (`results.of_choice`)."""
    return score_choice(results[0], doc["choices"], doc_to_target(doc))


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The letters' log-likelihoods (`results.of_losses`)."""
    return score_losses(results, doc_to_index(doc))

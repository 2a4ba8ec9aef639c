"""What a task's `process_results` gives lmms-eval for one document: the same keys for every benchmark.

| key | |
|---|---|
| acc | 1 where the answer that was read is the right one |
| score | the same, under the name that lmms-eval's paired test (`--baseline`) looks for |
| unparsed | 1 where no answer could be read |
| acc_paper | as the paper's released code scores |
| parsed | the letter or the number that was read, "" where there is none |
| letters | how likely each choice is: one for the one that was read, or from the choices' log-likelihoods |
"""

import ast
import math
from collections.abc import Sequence
from typing import Any

from lmms_steer.scoring.choice import LETTERS, parse_choice
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.paper import paper_choice, paper_number


def of_choice(answer: str, choices: Sequence[str], right: str) -> dict[str, Any]:
    """A generated answer to a question with choices; `right`: its letter."""
    read = parse_choice(answer, choices)
    paper = float(paper_choice(answer, choices) == right)
    return {**_of(read, right), "acc_paper": paper, "letters": {read: 1.0} if read else {}}


def of_number(answer: str, right: int) -> dict[str, Any]:
    """A generated answer to a question for a number."""
    read = parse_number(answer)
    paper = float(paper_number(answer) == right)
    return {**_of("" if read is None else str(read), str(right)), "acc_paper": paper}


def of_losses(responses: Sequence[Any], right: int, names: Sequence[str] = LETTERS) -> dict[str, Any]:
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

"""The questions that the page shows with every system's answer: those on which systems differ first."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.comparison.pictures import pictures_of
from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.systems import System
from lmms_steer.scoring.choice import choices_of, text_of

LONGEST = 600
IMAGES = 6_000_000
"""Characters that all images of a page may take."""
MOST_ANSWERS = 60_000
"""On a page, so that it opens at once; more systems or tasks have fewer questions each."""


def tasks_of(
    systems: dict[str, System], most: int, pictures: str, include_path: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A dict a task that the baseline has: its questions, and every system's answers.

    Args:
        systems: the baseline first.
        most: questions a task.
        pictures: ours, all or none.
        include_path: the user's own folder of tasks.
    """
    baseline = next(iter(systems.values()))
    answers = sum(len(system.tasks) for system in systems.values())
    share = max(4, min(most, MOST_ANSWERS // max(answers, 1)))
    for task, base in baseline.tasks.items():
        runs = {s.name: s.tasks[task] for s in systems.values() if task in s.tasks}
        chosen = _choose(base, list(runs.values()), share)
        documents = _documents(base, runs, chosen)
        found: dict[int, str] = {}
        why = "left out"
        if pictures != "none":
            asked = [(doc["id"], doc["target"], doc.pop("prompt"), doc.pop("images")) for doc in documents]
            budget = IMAGES // len(baseline.tasks)
            found, why = pictures_of(task, asked, budget, pictures == "all", include_path)
        for doc in documents:
            doc.pop("prompt", None)
            doc.pop("images", None)
            doc["image"] = found.get(doc["id"], "")
        about = {"task": task, "n": len(base.keys), "better": base.better, "no_images": why}
        yield {**about, "systems": list(runs), "docs": documents}


def _choose(base: Samples, runs: list[Samples], share: int) -> Any:
    """Places in `base`: half the most fixed, half the most broken, then others in their order."""
    better = np.zeros(len(base.keys))
    worse = np.zeros(len(base.keys))
    for run in runs:
        if np.array_equal(run.keys, base.keys):
            change = np.nan_to_num(run.scores - base.scores) * base.better
            better += change > 0
            worse += change < 0
    ranks = [np.lexsort((base.docs, -change)) for change in (better, worse)]
    ranks = [rank[change[rank] > 0] for rank, change in zip(ranks, (better, worse), strict=True)]
    half = [ranks[0][: max(share // 2, share - len(ranks[1]))], ranks[1][: max(share // 2, share - len(ranks[0]))]]
    chosen = np.concatenate([*half, np.argsort(base.docs)])
    return chosen[np.sort(np.unique(chosen, return_index=True)[1])][:share]


def _documents(base: Samples, runs: dict[str, Samples], chosen: Any) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = [{"id": int(base.docs[i]), "answers": [], "by": []} for i in chosen]
    for run in runs.values():
        where = {int(key): int(place) for key, place in zip(run.keys, run.places, strict=True)}
        scores = {int(key): float(score) for key, score in zip(run.keys, run.scores, strict=True)}
        with run.path.open("rb") as file:
            for document, key in zip(documents, base.keys[chosen], strict=True):
                if int(key) not in where:
                    document["by"].append(-1)
                    continue
                file.seek(where[int(key)])
                sample = json.loads(file.readline())
                if run is base:
                    document |= {"target": str(sample["target"]), "images": sample.get("images")}
                    document["meant"] = _cut(_meant(sample))
                    document["prompt"] = _asked(sample)
                    document["question"] = _cut(document["prompt"])
                answer = [_cut(_said(sample)), _rounded(scores[int(key)]), int(bool(sample.get("unparsed")))]
                if answer not in document["answers"]:
                    document["answers"].append(answer)
                document["by"].append(document["answers"].index(answer))
    return documents


def _meant(sample: dict[str, Any]) -> str:
    """The text of the right choice, where the target is its letter; our plugin logs choices, lm-eval the document."""
    return text_of(str(sample["target"]), choices_of(sample) or choices_of(sample.get("doc") or {}))


def _asked(sample: dict[str, Any]) -> Any:
    if "input" in sample:
        return sample["input"]
    # lm-eval: {"gen_args_0": {"arg_0": the prompt, …}, …}
    arguments = sample.get("arguments") or {}
    first = next(iter(arguments.values()), "") if isinstance(arguments, dict) else arguments[0]
    return first.get("arg_0", "") if isinstance(first, dict) else first


def _said(sample: dict[str, Any]) -> Any:
    said = sample.get("filtered_resps", "")
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    # of log-likelihoods the choice says more than the numbers
    return sample["parsed"] if isinstance(said, list) and "parsed" in sample else said


def _rounded(score: float) -> float | None:
    return None if np.isnan(score) else round(score, 4)


def _cut(text: Any) -> str:
    text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters, cut)"

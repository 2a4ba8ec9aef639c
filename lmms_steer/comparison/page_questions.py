"""The images of the questions on the page, from the tasks' own data where it is on this machine.

The questions that the page shows with every system's answer: those on which systems differ first.
"""

import base64
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.systems import System
from lmms_steer.errors import first_line
from lmms_steer.harness.task_files import our_tasks, tasks_in
from lmms_steer.scoring.choice import choice_text, choices_of

EDGE = 360
_PIXEL_ART = 96
"""Smaller pictures are kept to the pixel."""


def task_images(
    task: str,
    asked: Iterable[tuple[int, str, Any, Any]],
    budget: int,
    every: bool = False,
    include_path: Path | None = None,
) -> tuple[dict[int, str], str]:
    """Document ▸ its first image as a data URI, and why not every document has one.

    Args:
        task: its name.
        asked: doc_id, target, prompt and names of images as logged, which must be those of the data here; the prompt
            is looked at where the log names no images (None).
        budget: characters that all of them may take; the first come first.
        every: tasks of the harness as well, whose data may be downloaded.
        include_path: the user's own folder of tasks, which count as ours.
    """
    near = our_tasks() | (tasks_in(include_path) if include_path else {})
    if not every and task not in near:
        return {}, "no task of ours (your own: --include_path; lmms-eval's: --pictures all tries to load them)"
    pictures: dict[int, str] = {}
    why = ""
    try:
        # with torch and lmms-eval behind them, which a comparison without images does not wait for
        from lmms_steer.harness.tasks import load_task
        from lmms_steer.models.visuals import image_ids, prepare_visuals

        found, _ = load_task(task, "steered_hf", include_path)
        docs = found.eval_docs
        for number, target, prompt, names in asked:
            doc = docs[number]
            visuals = prepare_visuals(found.doc_to_visual(doc), task)
            alike = found.doc_to_text(doc) == prompt if names is None else names == image_ids(visuals)
            if str(found.doc_to_target(doc)) != target or not alike:
                why = "the data here is not what the runs were made on"
            elif visuals and isinstance(visuals[0], Image.Image):
                pictures[number] = data_uri(visuals[0])
                budget -= len(pictures[number])
            if budget < 0:
                return pictures, "more would make the page large"
    except Exception as error:  # noqa: BLE001  a task's own code and data may fail in any way; the page does without
        return pictures, f"the data could not be loaded: {first_line(error)}"
    return pictures, why


def data_uri(picture: Image.Image) -> str:
    """As a page holds it: small enough to be one of hundreds."""
    picture = picture.convert("RGB")
    small = max(picture.size) <= _PIXEL_ART
    picture.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG") if small else picture.save(buffer, "WEBP", quality=75)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


LONGEST = 600
IMAGES = 6_000_000
"""Characters that all images of a page may take."""
MOST_ANSWERS = 60_000
"""On a page, so that it opens at once; more systems or tasks have fewer questions each."""


def page_tasks(
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
            found, why = task_images(task, asked, budget, pictures == "all", include_path)
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
    return choice_text(str(sample["target"]), choices_of(sample) or choices_of(sample.get("doc") or {}))


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

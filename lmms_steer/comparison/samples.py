"""Which entry of a logged sample is its score: harnesses and tasks have many names for it.

A task's samples, as columns: 200 files of 2,600 answers are read in seconds and kept in megabytes.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer.comparison.runs import RunResults
from lmms_steer.errors import UserError


def score_names(task: str, results: dict[str, Any], sample: dict[str, Any], wanted: str | None) -> list[str]:
    """Names under which a task's samples may hold their score, the likeliest first.

    Args:
        task: its name.
        results: the results file.
        sample: the task's first.
        wanted: the user's choice; then there is no other.
    """
    if wanted:
        return [wanted]
    config = results.get("configs", {}).get(task, {})
    listed = [metric.get("metric") for metric in config.get("metric_list") or () if isinstance(metric, dict)]
    # lmms-eval's own paired test looks at `score_key`, then at what ends in _score
    scores = [key for key in sample if key.endswith("_score")]
    names = [config.get("score_key"), "score", *(sample.get("metrics") or ()), *listed, *scores]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def score_of(sample: dict[str, Any], names: Sequence[str]) -> tuple[str, float]:
    """The first of the names that the sample has a number under, and the number; NaN where there is none."""
    for name in names:
        value = sample.get(name)
        # stock tasks log what they aggregate later: {"question_id": …, "score": 1.0}
        if isinstance(value, dict):
            value = value.get("score")
        try:
            return name, float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return "", math.nan


def score_direction(task: str, results: dict[str, Any], metric: str) -> int:
    """1 where a higher score is better, else -1.

    The harness says it of the task's metrics; what a sample holds under another name goes their way if they all agree.
    """
    said = results.get("higher_is_better", {}).get(task) or {}
    directions = {said[metric]} if metric in said else set(said.values())
    return -1 if directions == {False} else 1


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """One task of one run, a row a document, in the order of `keys`.

    Attributes:
        keys: doc_id and a checksum of the target, which know a document again (lmms-eval 0.7.3 writes one and the same
            doc_hash for all).
        docs: doc_id.
        prompts: hashes of what the model was asked.
        images: hashes of what it was shown; 0 where the log does not say.
        images_by: what they were made from: our models' `images`, by content, or lmms-eval's `input_media`, file names.
        scores: NaN where there is none.
        unparsed: 1 where no answer could be read; NaN where the task does not say.
        places: where the row begins in the file.
    """

    task: str
    results: RunResults
    path: Path
    sha256: str
    metric: str
    keys: Ints
    docs: Ints
    prompts: Ints
    images: Ints
    images_by: str
    scores: Floats
    unparsed: Floats
    places: Ints

    @cached_property
    def better(self) -> int:
        """1 where a higher score is better, else -1."""
        return score_direction(self.task, self.results.said, self.metric)

    @property
    def by_document(self) -> dict[str, float]:
        """key ▸ score."""
        return {str(key): float(score) for key, score in zip(self.keys, self.scores, strict=True)}

    @property
    def questions(self) -> set[str]:
        """What was asked, a hash a question."""
        return {question_id(*asked) for asked in zip(self.prompts.tolist(), self.images.tolist(), strict=True)}

    def said(self) -> Iterator[dict[str, Any]]:
        """The samples as they were logged, by document."""
        with self.path.open("rb") as file:
            for place in self.places.tolist():
                file.seek(place)
                yield json.loads(file.readline())


def read_samples(results: RunResults, task: str, wanted: str | None = None) -> Samples:
    """Read a task's samples file.

    Args:
        results: the results file that it belongs to.
        task: its name.
        wanted: the metric to compare by; what the task itself goes by where unsaid.

    Raises:
        UserError: for a file that is cut off or names a document twice.
    """
    path = results.evaluation.samples[task]
    digest, place = hashlib.sha256(), 0
    rows: list[tuple[int, int, int, int, float, float, int]] = []
    names: list[str] = []
    metric, images_by, first_filter = "", "", None
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                sample = json.loads(line)
                if not rows:
                    names = score_names(task, results.said, sample, wanted)
                    first_filter = sample.get("filter")
                    images_by = "images" if "images" in sample else "input_media"
                # lm-eval writes a row for each of a task's filters
                if sample.get("filter") == first_filter:
                    name, score = score_of(sample, [metric] if metric else names)
                    metric = metric or name
                    rows.append((*_identity(sample, images_by), score, _number(sample.get("unparsed")), place))
                place += len(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} is cut off after {len(rows)} samples: {error}") from error
    _check_count(results, task, path, len(rows))
    rows.sort()
    columns = list(zip(*rows, strict=True))
    keys, docs, prompts, images, places = (np.array(columns[i], dtype=np.int64) for i in (0, 1, 2, 3, 6))
    scores, unparsed = (np.array(columns[i], dtype=np.float64) for i in (4, 5))
    if not np.diff(keys).all():
        twice = docs[:-1][np.diff(keys) == 0][0]
        raise UserError(f"{str(path)!r} has document {twice} twice: were two runs written into one file?")
    return Samples(
        task,
        results,
        path,
        digest.hexdigest(),
        metric,
        keys,
        docs,
        prompts,
        images,
        images_by,
        scores,
        unparsed,
        places,
    )


def _identity(sample: dict[str, Any], images_by: str) -> tuple[int, int, int, int]:
    doc, shown = int(sample["doc_id"]), sample.get(images_by)
    # lm-eval hashes the prompt, lmms-eval writes it
    asked = sample.get("prompt_hash") or sample.get("input")
    return (
        (doc << 32) + zlib.crc32(str(sample["target"]).encode()),
        doc,
        stable_hash(asked),
        stable_hash(shown) if shown else 0,
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _check_count(results: RunResults, task: str, path: Path, count: int) -> None:
    counts = results.said.get("n-samples", {}).get(task) or {}
    # with an offset lmms-eval says more than there can be
    offset = results.said.get("config", {}).get("offset")
    expected = count if offset else int(counts.get("effective", count))
    if count == 0 or count < expected:
        raise UserError(f"{str(path)!r} is cut off: it holds {count} of {expected} samples")

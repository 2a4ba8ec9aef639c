"""Read a task's logged samples as columns: 200 files of 2,600 answers take seconds and a few megabytes."""

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer._util.json import parse_json
from lmms_steer.comparison.logged_scores import logged_recall, logged_score
from lmms_steer.comparison.runs import RunResults
from lmms_steer.comparison.yes_no import answer_text, is_empty, logged_yes
from lmms_steer.errors import UserError, first_line, shorten
from lmms_steer.statistics import Floats, Ints

READINGS = ("strict", "lenient", "paper")
"""Our scorers log `acc_strict`, `acc_lenient` and `acc_paper`: the accuracy by another reading of the answer than that
of `acc`. `paper` is the scorer of the paper's released code."""
LOG_LIKELIHOOD = "log_likelihood"
"""The name of a score that the harnesses log as `perplexity`; more is better."""
MAX_LINE = 1 << 28
"""Longest line of a samples file, 256 MiB."""


@dataclass(frozen=True)
class Samples:
    """One task of one run, as columns with one entry a document, in the order of `keys`.

    Attributes:
        task: its name.
        results: the results file of the run.
        path: the samples file.
        sha256: of the samples file.
        metric: the name of the score.
        keys: identify a document in another run, from its doc_id and a checksum of its target (lmms-eval 0.7.3 writes
            the same doc_hash for all documents).
        doc_ids: the harness's number of the document.
        prompts: a hash of each prompt.
        images: a hash of each question's images; 0 if the log does not name them.
        images_source: the field that the hashes of images were made from: our models' `images`, which go by content,
            or lmms-eval's `input_media`, which holds file names.
        scores: NaN where there is none.
        unparsed: 1 where no answer could be read; NaN where the task does not record it.
        empty: 1 where the answer is an empty text.
        yes: 1 where the answer says yes, 0 where it does not; NaN unless the label of every question is yes or no.
        yes_labels: 1 where the label is yes; NaN likewise.
        words: the number of words of the answer; NaN for an answer that is no text.
        recall: the share of the image's objects that a caption mentions; NaN where the task does not count them.
        readings: other readings of the answers that the task records, name of `READINGS` ▸ scores.
        offsets: where the document's line begins in the file.
    """

    task: str
    results: RunResults
    path: Path
    sha256: str
    metric: str
    keys: Ints
    doc_ids: Ints
    prompts: Ints
    images: Ints
    images_source: str
    scores: Floats
    unparsed: Floats
    empty: Floats
    yes: Floats
    yes_labels: Floats
    words: Floats
    recall: Floats
    readings: dict[str, Floats]
    offsets: Ints

    @cached_property
    def direction(self) -> int:
        """1 if a higher score is better, else -1."""
        return score_direction(self.task, self.results.content, self.metric)

    @property
    def scores_by_document(self) -> dict[str, float]:
        """Key ▸ score."""
        return {str(key): float(score) for key, score in zip(self.keys, self.scores, strict=True)}

    @property
    def question_ids(self) -> set[str]:
        """The ids of the questions, as `question_id` makes them from prompts and images."""
        return {question_id(*pair) for pair in zip(self.prompts.tolist(), self.images.tolist(), strict=True)}

    def read_logged(self) -> Iterator[dict[str, Any]]:
        """Read the samples again as they were logged, in the order of `keys`."""
        with self.path.open("rb") as file:
            for offset in self.offsets.tolist():
                file.seek(offset)
                yield parse_json(file.readline())

    def read_one(self, index: int) -> dict[str, Any]:
        """Read one sample again as it was logged, by its place in `keys`."""
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            sample: dict[str, Any] = parse_json(file.readline())
            return sample


class _Row(NamedTuple):
    """What is kept of a sample; rows sort by key."""

    key: int
    doc_id: int
    prompt: int
    images: int
    score: float
    unparsed: float
    empty: float
    yes_label: float
    yes: float
    words: float
    recall: float
    readings: tuple[float, ...]
    offset: int


def read_samples(results: RunResults, task: str, metric: str | None = None) -> Samples:
    """Read a task's samples file.

    Args:
        results: the results file of the run.
        task: its name.
        metric: the score to compare by; default: the task's own.

    Raises:
        UserError: for a file that is cut off, contains a document twice, or is of a task that the run did not have.
    """
    path = results.evaluation.samples[task]
    evaluated = {*results.content["results"], *(results.content.get("configs") or ())}
    if task not in evaluated:
        raise UserError(
            f"{str(path)!r} does not belong to {results.evaluation.results.name!r}, which has no task {task!r}"
        )
    digest, offset = hashlib.sha256(), 0
    rows: list[_Row] = []
    found: list[dict[str, float]] = []
    candidates: list[str] = []
    images_source, first_filter = "", None
    filters = len(filter_names(task, results.content))
    seen: Counter[int] = Counter()
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise ValueError(f"the next line is longer than {MAX_LINE >> 20} MiB")
                digest.update(line)
                sample = parse_json(line)
                if not rows:
                    candidates = score_names(task, results.content, sample, metric)
                    first_filter = sample.get("filter")
                    images_source = "images" if "images" in sample else "input_media"
                # both harnesses write a row for each of a task's filters, in their order; only lm-eval names the filter
                if sample.get("filter") == first_filter:
                    scores = scores_of(sample, candidates)
                    row = _row_of(sample, images_source, metric or "", offset)
                    seen[row.key] += 1
                    if first_filter is not None or not 1 < seen[row.key] <= filters:
                        rows.append(row)
                        found.append(scores)
                offset += len(line)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{str(path)!r} is cut off after {len(rows)} samples: {first_line(error)}") from error
    _check_count(results, task, path, len(rows))
    better = results.content.get("higher_is_better", {}).get(task) or {}
    used_metric, values = _common_scores(candidates, found, better)
    rows = sorted(row._replace(score=value) for row, value in zip(rows, values, strict=True))

    def integers(field: str) -> Ints:
        return np.array([getattr(row, field) for row in rows], dtype=np.int64)

    def floats(field: str) -> Floats:
        return np.array([getattr(row, field) for row in rows], dtype=np.float64)

    keys, doc_ids, labels = integers("key"), integers("doc_id"), floats("yes_label")
    yes_or_no = not np.isnan(labels).any()
    if not np.diff(keys).all():
        repeated = doc_ids[:-1][np.diff(keys) == 0][0]
        raise UserError(f"{str(path)!r} has document {repeated} twice: were two runs written into one file?")
    return Samples(
        task=task,
        results=results,
        path=path,
        sha256=digest.hexdigest(),
        metric=LOG_LIKELIHOOD if _is_log_likelihood(task, results.content, used_metric) else used_metric,
        keys=keys,
        doc_ids=doc_ids,
        prompts=integers("prompt"),
        images=integers("images"),
        images_source=images_source,
        scores=floats("score"),
        unparsed=floats("unparsed"),
        empty=floats("empty"),
        yes=np.nan_to_num(floats("yes")) if yes_or_no else np.full_like(labels, np.nan),
        yes_labels=labels if yes_or_no else np.full_like(labels, np.nan),
        words=floats("words"),
        recall=floats("recall"),
        readings=_readings(used_metric, [row.readings for row in rows]),
        offsets=integers("offset"),
    )


def filter_names(task: str, results: dict[str, Any]) -> list[str]:
    """List the filters of a task's answers, in their order; the first one's scores are compared.

    Args:
        task: its name.
        results: the content of the results file.
    """
    listed = results.get("configs", {}).get(task, {}).get("filter_list")
    names = [str(one.get("name")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return list(dict.fromkeys(names)) or ["none"]


def score_names(task: str, results: dict[str, Any], sample: dict[str, Any], metric: str | None) -> list[str]:
    """List the names under which a task's samples may hold their score, the most likely first.

    Args:
        task: its name.
        results: the content of the results file.
        sample: the task's first sample.
        metric: the user's choice; then it is the only name.
    """
    if metric:
        return [metric]
    config = results.get("configs", {}).get(task, {})
    listed = [entry.get("metric") for entry in config.get("metric_list") or () if isinstance(entry, dict)]
    # lmms-eval's own paired test reads `score_key`, then keys that end in _score
    scores = [key for key in sample if key.endswith("_score")]
    names = [config.get("score_key"), "score", *(sample.get("metrics") or ()), *listed, *scores]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def scores_of(sample: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Name ▸ number, for each of the names that the sample has; NaN where there is no number under it."""
    found: dict[str, float] = {}
    for name in names:
        if name in sample:
            value = sample[name]
            try:
                # lmms-eval's own tasks log what they aggregate later: {"question_id": …, "score": 1.0}
                found[name] = logged_score(name, value) if isinstance(value, dict) else float(value)
            except (TypeError, ValueError):
                found[name] = math.nan
    return found


def logged_names(sample: dict[str, Any]) -> list[str]:
    """The names under which a sample holds a number that can be compared by."""
    typed = [name for name, value in sample.items() if isinstance(value, int | float | dict) and name != "doc_id"]
    numbers = scores_of(sample, [name for name in typed if not name.startswith("unparsed")])
    return [name for name, number in numbers.items() if not math.isnan(number)]


def _common_scores(
    names: Sequence[str], found: Sequence[dict[str, float]], directions: Mapping[str, bool]
) -> tuple[str, list[float]]:
    """The first score that all samples have, though some without a number. Where there is none, each sample's own first
    one, as MME logs a question's perception or cognition score; NaN for all if more is better by some of them only.
    """
    numbers = {name for scores in found for name, number in scores.items() if not math.isnan(number)}
    common = next((name for name in names if name in numbers and all(name in scores for scores in found)), None)
    if common is not None:
        return common, [scores[common] for scores in found]
    own = [next(((n, scores[n]) for n in names if n in scores and n in numbers), ("", math.nan)) for scores in found]
    used = dict.fromkeys(name for name, _ in own if name)
    if len({directions.get(name) for name in used}) > 1:
        return "", [math.nan] * len(found)
    return " or ".join(used), [number for _, number in own]


def score_direction(task: str, results: dict[str, Any], metric: str) -> int:
    """Return 1 if a higher score is better, else -1.

    The harness records the direction of the task's metrics. A score with another name has their direction if all of
    them agree.
    """
    if metric == LOG_LIKELIHOOD:
        return 1
    recorded = results.get("higher_is_better", {}).get(task) or {}
    directions = {recorded[metric]} if metric in recorded else set(recorded.values())
    return -1 if directions == {False} else 1


def _is_log_likelihood(task: str, results: dict[str, Any], metric: str) -> bool:
    """Whether a question's score is the log-likelihood of its target.

    Both harnesses log that under the name `perplexity`, which they make of all questions' values only at the end
    (`process_results` in lm_eval/api/task.py).
    """
    config = results.get("configs", {}).get(task, {})
    is_own = config.get("process_results") is not None
    return metric == "perplexity" and config.get("output_type") == "loglikelihood" and not is_own


def logged_prompt(sample: Mapping[str, Any]) -> Any:
    """Return the prompt of a logged sample; "" if the log has none."""
    if "input" in sample:
        return sample["input"]
    # lm-eval: {"gen_args_0": {"arg_0": the prompt, …}, …}
    arguments = sample.get("arguments") or {}
    first = next(iter(arguments.values()), "") if isinstance(arguments, dict) else arguments[0]
    return first.get("arg_0", "") if isinstance(first, dict) else first


def _row_of(sample: dict[str, Any], images_source: str, metric: str, offset: int) -> _Row:
    doc_id, images = int(sample["doc_id"]), sample.get(images_source)
    if not 0 <= doc_id < 1 << 31 or isinstance(sample["doc_id"], float):
        raise ValueError(f"doc_id is {shorten(sample['doc_id'])}")
    # a reading as the chosen metric has unread answers of its own
    reading = metric.removeprefix("acc_")
    unparsed = sample.get(f"unparsed_{reading}" if reading in READINGS else "unparsed")
    yes_label, yes = logged_yes(sample)
    answer = answer_text(sample)
    return _Row(
        key=(doc_id << 32) + zlib.crc32(str(sample["target"]).encode()),
        doc_id=doc_id,
        # lm-eval hashes the prompt, lmms-eval writes it out
        prompt=stable_hash(sample.get("prompt_hash") or sample.get("input")),
        images=stable_hash(images) if images else 0,
        score=math.nan,
        unparsed=_number(unparsed),
        empty=float(is_empty(sample)),
        yes_label=yes_label,
        yes=yes,
        words=float(len(answer.split())) if isinstance(answer, str) else math.nan,
        recall=logged_recall(sample),
        readings=tuple(_number(sample.get(f"acc_{name}")) for name in READINGS),
        offset=offset,
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _readings(metric: str, rows: list[tuple[float, ...]]) -> dict[str, Floats]:
    """Return the readings that every sample has, for a score that is one; {} for another metric."""
    if metric not in ("acc", "score"):
        return {}
    columns = zip(READINGS, np.array(rows, dtype=np.float64).reshape(-1, len(READINGS)).T, strict=True)
    return {name: column for name, column in columns if len(column) and not np.isnan(column).any()}


def _check_count(results: RunResults, task: str, path: Path, count: int) -> None:
    counts = results.content.get("n-samples", {}).get(task) or {}
    # with an offset lmms-eval records more documents than there can be
    offset = results.content.get("config", {}).get("offset")
    expected = count if offset else int(counts.get("effective", count))
    if count == 0 or count < expected:
        raise UserError(f"{str(path)!r} is cut off: it holds {count} of {expected} samples")

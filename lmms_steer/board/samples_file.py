"""Answers and scores of an entry as Parquet, and their reader. Questions and images are there as hashes only.

A stranger's file is read in bounded memory: its size, rows, columns and packing are limited.
"""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmms_steer._util.io import read_limited
from lmms_steer._util.json import parse_json
from lmms_steer._util.parquet import check_unpacked
from lmms_steer.board.entry import RESULTS, SAMPLES, Entry
from lmms_steer.comparison.results_shape import checked_results
from lmms_steer.comparison.runs import Evaluation, RunResults
from lmms_steer.comparison.samples import READINGS, Samples
from lmms_steer.errors import UserError, first_line, reason, shorten
from lmms_steer.statistics import Floats, Ints

MAX_ROWS = 200_000
MAX_BYTES = 1 << 28
"""Most bytes of all columns, unpacked."""
_MOST_COLUMNS = 20
_TEXTS = ("target", "answer", "choices")
_INTS = ("doc_id", "prompt", "images")
_REQUIRED = (*_TEXTS, *_INTS, "score")
_ACCEPTED = "accepted"
_FLOATS = ("score", "unparsed", "empty", "yes", "yes_labels", *READINGS)
"""Columns that came after the first ones, and those that a task does not record, may be missing."""


@dataclass(frozen=True)
class Texts:
    """A column of texts: the different ones, and which of them each row has."""

    values: list[str]
    index: Ints


class StoredAnswer(NamedTuple):
    """An answer with what its score follows from, as it is stored.

    Attributes:
        answer: the text; JSON for several, such as the losses of all choices.
        target: the correct answer.
        choices: the texts of the choices, as a JSON list; "" if they were not logged.
        accepted: all answers that count as correct, as a JSON list; "" if the task logs none.
    """

    answer: str
    target: str
    choices: str
    accepted: str = ""


@dataclass(frozen=True)
class Answers:
    """What was answered to each question, in the order of the samples' `keys`; see `StoredAnswer`."""

    answer: Texts
    target: Texts
    choices: Texts
    accepted: Texts

    def combinations(self) -> tuple[list[StoredAnswer], Ints]:
        """The different answers, and which of them each row has."""
        columns = (self.answer, self.target, self.choices, self.accepted)
        rows = np.stack([column.index for column in columns], axis=1)
        different, index = np.unique(rows, axis=0, return_inverse=True)
        found = [
            StoredAnswer(*(column.values[one] for column, one in zip(columns, row, strict=True)))
            for row in different.tolist()
        ]
        return found, index.reshape(-1)


class StoredSamples(Samples):
    """Samples whose prompts are known by their hashes only."""

    def read_one(self, index: int) -> dict[str, Any]:
        """Return what is known of a sample in the place of its prompt."""
        return {"input": f"prompt {int(self.prompts[index]) % 2**64:016x}"}


def write_samples(samples: Samples, path: Path) -> None:
    """Write the samples of a run.

    Args:
        samples: as they were read from the harness's file.
        path: the file to write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    logged = list(samples.read_logged())
    columns: dict[str, Any] = {
        "doc_id": pa.array(samples.doc_ids, pa.int64()),
        "target": pa.array([str(row["target"]) for row in logged], pa.string()),
        "answer": pa.array(map(logged_answer, logged), pa.string()),
        "choices": pa.array([_listed(row.get("choices")) for row in logged], pa.string()),
        _ACCEPTED: pa.array([_listed(row.get("accepted")) for row in logged], pa.string()),
        "prompt": pa.array(samples.prompts, pa.int64()),
        "images": pa.array(samples.images, pa.int64()),
        "score": pa.array(samples.scores, pa.float64()),
        "unparsed": pa.array(samples.unparsed, pa.float64()),
        "empty": pa.array(samples.empty, pa.float64()),
        "yes": pa.array(samples.yes, pa.float64()),
        "yes_labels": pa.array(samples.yes_labels, pa.float64()),
    }
    columns |= {name: pa.array(values, pa.float64()) for name, values in samples.readings.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="snappy")


def read_stored(folder: Path, entry: Entry, sha256: str) -> tuple[StoredSamples, Answers]:
    """Read the results file and the samples of an entry.

    Args:
        folder: the entry's.
        entry: its `entry.json`.
        sha256: of the samples file.

    Raises:
        UserError: for files that are damaged, too large, of another shape, or of another task than the entry says.
    """
    import pyarrow as pa

    try:
        raw = read_limited(folder / RESULTS, MAX_BYTES)
        content = checked_results(parse_json(raw))
    except (OSError, ValueError) as error:
        raise UserError(f"{RESULTS} is cut off or no results file: {reason(error)}") from error
    task = entry.harness_task
    if task not in {*content["results"], *(content.get("configs") or ())}:
        raise UserError(f"{RESULTS} has no task {task!r}")
    evaluation = Evaluation(entry.harness, "", folder / RESULTS, {task: folder / SAMPLES})
    if (model := RunResults(evaluation, content, "").model) != entry.model:
        raise UserError(f"{RESULTS} is of the model {shorten(model)}, the entry says {shorten(entry.model)}")
    try:
        table = _read_table(folder / SAMPLES)
        return _parsed(table, RunResults(evaluation, content, ""), entry, folder / SAMPLES, sha256)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise UserError(f"{SAMPLES} cannot be read: {first_line(error)}") from error


def logged_answer(sample: dict[str, Any]) -> str:
    """The answer of a logged sample as it is stored: the text, or JSON for several, such as the losses of choices."""
    responses = sample.get("filtered_resps")
    while isinstance(responses, list) and len(responses) == 1:
        responses = responses[0]
    return responses if isinstance(responses, str) else json.dumps(responses, ensure_ascii=False)


def _listed(texts: Any) -> str:
    return json.dumps(texts, ensure_ascii=False) if texts else ""


def _read_table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata, names = file.metadata, file.schema_arrow.names
        if not 0 < metadata.num_rows <= MAX_ROWS:
            raise ValueError(f"{metadata.num_rows} rows, expected 1 to {MAX_ROWS}")
        if missing := [name for name in _REQUIRED if name not in names]:
            raise ValueError(f"there is no column {missing[0]!r}")
        if metadata.num_columns != len(names) or len(names) > _MOST_COLUMNS:
            raise ValueError(f"{metadata.num_columns} columns, expected up to {_MOST_COLUMNS} plain ones")
        check_unpacked(metadata, MAX_BYTES)
    wanted = [name for name in (*_TEXTS, _ACCEPTED, *_INTS, *_FLOATS) if name in names]
    texts = [name for name in wanted if name in (*_TEXTS, _ACCEPTED)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        table = file.read(columns=wanted, use_threads=False)
    types = {**dict.fromkeys(_INTS, pa.int64()), **dict.fromkeys(_FLOATS, pa.float64())}
    for name in wanted:
        kind = table.schema.field(name).type
        if name in types and kind != types[name]:
            raise ValueError(f"the column {name!r} holds {kind}, not {types[name]}")
        if name in texts and not pa.types.is_dictionary(kind):
            raise ValueError(f"the column {name!r} holds {kind}, not texts")
        if name not in READINGS and table.column(name).null_count:
            raise ValueError(f"the column {name!r} has rows without a value")
    return table


def _parsed(table: Any, results: RunResults, entry: Entry, path: Path, sha256: str) -> tuple[StoredSamples, Answers]:
    integers = {name: table.column(name).to_numpy() for name in _INTS}
    floats: dict[str, Floats] = {
        name: table.column(name).to_numpy(zero_copy_only=False)
        if name in table.schema.names
        else np.full(len(table), np.nan)
        for name in _FLOATS
    }
    texts = {name: _texts(table.column(name)) for name in _TEXTS}
    nothing = Texts([""], np.zeros(len(table), np.int64))
    texts[_ACCEPTED] = _texts(table.column(_ACCEPTED)) if _ACCEPTED in table.schema.names else nothing
    doc_ids = integers["doc_id"]
    if doc_ids.min() < 0 or doc_ids.max() >= 1 << 31:
        raise ValueError("a doc_id is below 0 or too large")
    # as `comparison.samples` makes them
    checksums = np.array([zlib.crc32(value.encode()) for value in texts["target"].values], dtype=np.int64)
    keys = (doc_ids << 32) + checksums[texts["target"].index]
    order = np.argsort(keys, kind="stable")
    if not np.diff(keys[order]).all():
        raise ValueError("a document is there twice")
    samples = StoredSamples(
        task=entry.harness_task,
        results=results,
        path=path,
        sha256=sha256,
        metric=entry.metric,
        keys=keys[order],
        doc_ids=doc_ids[order],
        prompts=integers["prompt"][order],
        images=integers["images"][order],
        images_source=entry.images_source,
        scores=floats["score"][order],
        unparsed=floats["unparsed"][order],
        empty=floats["empty"][order],
        yes=floats["yes"][order],
        yes_labels=floats["yes_labels"][order],
        # an entry does not keep these
        words=np.full(len(order), np.nan),
        recall=np.full(len(order), np.nan),
        readings={name: floats[name][order] for name in READINGS if not math.isnan(floats[name].sum())},
        offsets=order,
    )
    answers = {name: Texts(column.values, column.index[order]) for name, column in texts.items()}
    return samples, Answers(**answers)


def _texts(column: Any) -> Texts:
    """The values of a column of texts, without its copies of the same value in several chunks."""
    import pyarrow as pa

    whole = column.unify_dictionaries().combine_chunks()
    chunks: Sequence[Any] = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
    if len(chunks) != 1:
        raise ValueError("a column of texts is in several parts")
    return Texts(chunks[0].dictionary.to_pylist(), chunks[0].indices.to_numpy(zero_copy_only=False).astype(np.int64))

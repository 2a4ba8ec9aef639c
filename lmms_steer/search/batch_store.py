"""Measure a study's rungs batch by batch, and store every finished batch on disk at once.

A batch is one file, with each cell's score on each of its questions. Several processes, on one machine or on several
with a common disk, can share a study: each takes batches that no other process holds, and waits for the others at the
end of a rung. A process that dies leaves no partial batch, and its lock is released with it.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from lmms_steer._util.io import put_aside, write_atomically
from lmms_steer.errors import UserError
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.strategies import Rung
from lmms_steer.statistics import Floats

POLL_SECONDS = 0.2
CHECK_EVERY = 8
"""One batch in this many is checked against the model with hooks."""


class Row(NamedTuple):
    """What was measured on one question; `scores`, `unparsed` and `kl` have a value for each cell.

    The attributes are those of `Measurement`.
    """

    scores: list[float]
    base: float
    unparsed: list[float]
    base_unparsed: float
    kl: list[float]
    answer_logits: list[float]
    why_not_replayed: str


class BatchStore:
    """The batches of one study. Calling it measures a rung.

    Args:
        folder: the study's folder.
        measure: measures cells on a batch.
        questions: all questions, in the study's order.
        batch_size: questions in a batch.
        bar: advances by one for each answer (one cell, one question).
        plan: hash of the study's plan, which every batch names.

    Attributes:
        answers: place of a question ▸ the unsteered logits of its answers, of all batches that were read.
        unparsed: for each cell, and for None (the unsteered model), 1 where no answer could be read, float [questions];
            NaN where that is unknown.
        kl: for each cell, KL(unsteered || steered) in nats at the token that decides, float [questions]; NaN where it
            was not measured, as in batches of older versions.
        why_not_replayed: for each batch that was measured with hooks, why.
        replayed: how many batches were replayed.
    """

    def __init__(
        self, folder: Path, measure: Measurer, questions: Sequence[Question], batch_size: int, bar: "tqdm[Any]",
        plan: str,
    ) -> None:  # fmt: skip
        self.folder, self.measure, self.questions = folder, measure, questions
        self.batch_size, self.bar, self.plan = batch_size, bar, plan
        self.answers: dict[int, list[float]] = {}
        self.unparsed: dict[Cell | None, Floats] = {}
        self.kl: dict[Cell, Floats] = {}
        self.why_not_replayed: list[str] = []
        self.replayed = 0
        self._runner = ShrinkingRunner()
        for name in ("batches", "locks"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __call__(self, number: int, rung: Rung) -> tuple[Floats, Floats]:
        """Measure a rung, together with the study's other processes.

        Args:
            number: the rung's number in the study.
            rung: its cells and questions.

        Returns:
            the scores [cells, questions] and the unsteered scores [questions].
        """
        batches = list(self._split(rung.questions))
        self.bar.set_postfix(cells=len(rung.cells), rung=number)
        waiting = dict(enumerate(batches))
        while waiting:
            before = len(waiting)
            for place, batch in list(waiting.items()):
                if self._finish(number, place, batch, rung):
                    del waiting[place]
                    self.bar.update(len(batch) * len(rung.cells))
            if len(waiting) == before:
                time.sleep(POLL_SECONDS)
        return self._read(number, batches, rung)

    @property
    def has_refuted_batches(self) -> bool:
        """Whether some batches were replayed although a replay has been found wrong since."""
        return self.replayed > 0 and self.measure.refuted_file.is_file()

    def forget_replayed(self) -> None:
        """Delete the batches that were replayed."""
        for path in sorted((self.folder / "batches").glob("*.parquet")):
            # one that is damaged is put aside when it is read
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                if not pq.read_schema(path).metadata[b"hooked"]:
                    path.unlink()

    def _finish(self, number: int, place: int, batch: Sequence[int], rung: Rung) -> bool:
        """Measure a batch unless another process does; whether it is on disk now."""
        path = self._path(number, place)
        if path.is_file():
            return True
        try:
            with FileLock(self.folder / "locks" / path.stem, blocking=False):
                if not path.is_file():
                    self._write_batch(path, batch, rung, self._is_checked(place, rung))
                return True
        except Timeout:
            return False

    def _is_checked(self, place: int, rung: Rung) -> bool:
        """Whether some cells run again with hooks: in one batch in eight, and in the first one of the finalists."""
        if rung.questions.stop < len(self.questions):
            place += rung.questions.start // self.batch_size
        return place % CHECK_EVERY == 0

    def _write_batch(self, path: Path, batch: Sequence[int], rung: Rung, check: bool) -> None:
        rows = self._runner.run(batch, partial(self._rows, rung.cells, check))
        columns = {
            "question": pa.array(list(batch), pa.int32()),
            "doc_id": pa.array([self.questions[i].doc_id for i in batch], pa.int64()),
            "right": pa.array([self.questions[i].right for i in batch], pa.int32()),
            "answers": pa.array([row.answer_logits for row in rows], pa.list_(pa.float32())),
            "base": pa.array([row.base for row in rows], pa.float32()),
            "scores": pa.array([row.scores for row in rows], pa.list_(pa.float32())),
            "kl": pa.array([row.kl for row in rows], pa.list_(pa.float32())),
        }
        base_unparsed = [row.base_unparsed for row in rows]
        if not np.isnan(base_unparsed).all():
            columns["base_unparsed"] = pa.array(base_unparsed, pa.float32())
            columns["unparsed"] = pa.array([row.unparsed for row in rows], pa.list_(pa.float32()))
        # a batch whose first half was replayed before a replay was found wrong counts as replayed
        metadata = {"cells": _cells_json(rung.cells), "hooked": rows[0].why_not_replayed, "plan": self.plan}
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
        write_atomically(path, buffer.getvalue().to_pybytes())

    def _rows(self, cells: Sequence[Cell], check: bool, batch: Sequence[int]) -> list[Row]:
        measured = self.measure([self.questions[i] for i in batch], cells, check)
        scores, unparsed, kl = (part.T.tolist() for part in (measured.scores, measured.unparsed, measured.kl))
        base, base_unparsed = measured.base.tolist(), measured.base_unparsed.tolist()
        columns = zip(scores, base, unparsed, base_unparsed, kl, measured.answer_logits, strict=True)
        return [Row._make((*values, measured.why_not_replayed)) for values in columns]

    def _read(self, number: int, batches: Sequence[Sequence[int]], rung: Rung) -> tuple[Floats, Floats]:
        scores, base = np.empty((len(rung.cells), len(rung.questions))), np.empty(len(rung.questions))
        for place, batch in enumerate(batches):
            table = self._table(number, place, batch, rung)
            rows = table.to_pydict()
            self.answers |= dict(zip(batch, rows["answers"], strict=True))
            why = table.schema.metadata[b"hooked"].decode()
            self.why_not_replayed += [why] if why else []
            self.replayed += not why
            columns = np.array(batch) - rung.questions.start
            scores[:, columns], base[columns] = np.array(rows["scores"]).T, rows["base"]
            # absent where the task does not report it, and in batches of older versions
            if "unparsed" in rows:
                unparsed = np.column_stack((rows["base_unparsed"], np.array(rows["unparsed"])))
                for cell, row in zip((None, *rung.cells), unparsed.T, strict=True):
                    self.unparsed.setdefault(cell, np.full(len(self.questions), np.nan))[batch] = row
            if "kl" in rows:
                for cell, row in zip(rung.cells, np.array(rows["kl"]).T, strict=True):
                    self.kl.setdefault(cell, np.full(len(self.questions), np.nan))[batch] = row
        return scores, base

    def _table(self, number: int, place: int, batch: Sequence[int], rung: Rung) -> pa.Table:
        """A batch from the disk; measured again where it is damaged, or where another process has deleted it."""
        path = self._path(number, place)
        while True:
            try:
                table = pq.read_table(path)
                break
            except FileNotFoundError:
                # another process found a replay wrong and deleted the batch to measure it again
                pass
            except (OSError, pa.ArrowInvalid) as error:
                self._put_aside(path, error)
            if not self._finish(number, place, batch, rung):
                time.sleep(POLL_SECONDS)
        metadata = table.schema.metadata or {}
        documents = [self.questions[i].doc_id for i in batch]
        cells = metadata.get(b"cells", b"").decode()
        # batches of older versions do not name their plan
        same_plan = metadata.get(b"plan", self.plan.encode()) == self.plan.encode()
        if not same_plan or cells != _cells_json(rung.cells) or table["doc_id"].to_pylist() != documents:
            raise UserError(
                f"{str(path)!r} is of other cells or questions, perhaps of another version: take another folder"
            )
        return table

    def _put_aside(self, path: Path, error: OSError | pa.ArrowInvalid) -> None:
        """Put a damaged batch aside, unless another process has, or the system could not read it."""
        if getattr(error, "errno", None):
            raise error
        with FileLock(self.folder / "locks" / path.stem):
            try:
                pq.read_table(path)
            except FileNotFoundError:
                pass
            except (OSError, pa.ArrowInvalid):
                put_aside(path, "no whole Parquet file")

    def _path(self, number: int, place: int) -> Path:
        return self.folder / "batches" / f"{number:03d}-{place:05d}.parquet"

    def _split(self, questions: range) -> Iterator[list[int]]:
        """Batches of questions with the same kinds of visuals, similar lengths together."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for i in questions:
            groups.setdefault(tuple(type(v).__name__ for v in self.questions[i].visuals), []).append(i)
        for group in groups.values():
            group.sort(key=lambda i: (-len(self.questions[i].text), i))
            yield from (group[start : start + self.batch_size] for start in range(0, len(group), self.batch_size))


def _cells_json(cells: Sequence[Cell]) -> str:
    return json.dumps([[c.vector, c.layer, c.alpha, c.tokens] for c in cells])
